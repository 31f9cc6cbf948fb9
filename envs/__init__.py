"""Tasks, environments, and the loop that runs every actor. No other package of the project is imported."""
