"""Returns, scores and their intervals."""
