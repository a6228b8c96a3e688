"""Talking to a trained model, with the renderer that trained it."""
