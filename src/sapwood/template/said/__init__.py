"""A row against its text: the forms that a template takes, what it drops, and what it rebuilds."""
