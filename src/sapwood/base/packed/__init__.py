"""Checkpoints whose weights are quantised, read as what they mean."""
