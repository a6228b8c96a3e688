"""Rows to conversations: the table of shapes, and how each is read."""
