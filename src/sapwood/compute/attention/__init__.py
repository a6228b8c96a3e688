"""Attention over a pack."""
