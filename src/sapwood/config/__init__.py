"""The config of a run: its sections, and the file that they are read from."""
