"""Zips and models of Stable-Baselines3 and sb3-contrib: read safely, trained, and played as experts."""
