"""Import and export of Minari data sets."""
