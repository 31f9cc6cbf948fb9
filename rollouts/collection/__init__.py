"""Collection of episodes by workers."""
