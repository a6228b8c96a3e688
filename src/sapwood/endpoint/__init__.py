"""One address for a base and all that was trained on it, each proven to be what was trained."""
