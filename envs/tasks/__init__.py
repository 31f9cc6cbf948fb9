"""Catalogue of tasks and their suites."""
