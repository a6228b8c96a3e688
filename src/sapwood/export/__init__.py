"""What leaves sapwood."""
