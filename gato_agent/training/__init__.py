"""Training loop, loss, optimizer and run folder."""
