"""Improvement of an agent by the best of its own episodes."""
