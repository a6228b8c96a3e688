"""The loop, the optimizer, the checkpoints."""
