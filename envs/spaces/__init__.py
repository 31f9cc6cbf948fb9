"""Nested spaces as flat columns, and views of observations."""
