"""Kinds of leaf spaces: each module declares one as `KIND`, and leaf_table.py finds it."""
