"""A person at a window as an expert."""
