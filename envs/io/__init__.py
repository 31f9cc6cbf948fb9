"""Strict readers of files that others may have written."""
