"""Experts: scripted programs, trained policies, and the user's own."""
