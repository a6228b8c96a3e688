"""The frozen base, the adapter on it, and the loss."""
