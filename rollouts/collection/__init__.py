"""Collection of episodes in worker processes, or on a Ray cluster."""
