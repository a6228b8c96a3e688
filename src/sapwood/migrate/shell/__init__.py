"""Command lines of shell scripts, fences and cells: followed through their variables; nothing is run."""
