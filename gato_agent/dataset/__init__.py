"""Episodes as batches of tokens."""
