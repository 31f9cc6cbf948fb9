"""Storage of episodes on disk."""
