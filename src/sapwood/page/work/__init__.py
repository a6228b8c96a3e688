"""What a process of its own computes for the page: checks, rows, answers. Nothing here draws."""
