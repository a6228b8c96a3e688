"""What a row says, and what its text says: the form a template takes, what it drops, what it rebuilds."""
