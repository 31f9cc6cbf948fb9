"""Tasks, environments, and the loop that runs every actor. Imports no other package of the project."""
