"""The memory plan: how much a run will hold at its worst moment, and what it does if that is too much."""
