"""The run directory, and the ways to look at it."""
