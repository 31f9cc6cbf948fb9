"""Experts of Stable-Baselines3 and sb3-contrib: safe reading of zips, training, and acting."""
