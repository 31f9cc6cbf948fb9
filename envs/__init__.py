"""What can be acted in: tasks, environments, the loop that every actor runs in. Knows nothing of the rest."""
