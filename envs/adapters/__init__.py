"""Suites whose environments need an adapter."""
