"""Which part of a conversation the model must learn to write, as turns, as text and as tokens."""
