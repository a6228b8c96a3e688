"""The memory plan: how much a run will hold at its worst moment, and what it does where that is too much."""
