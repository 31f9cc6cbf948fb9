"""Strict readers of untrusted files, and output to consoles."""
