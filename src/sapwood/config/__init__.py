"""What a run is told: the sections of its config, and the file that they are read from."""
