"""Experts: scripted, trained, and from Stable-Baselines3."""
