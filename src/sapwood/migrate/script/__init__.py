"""A script read without running it: its Python, its values, its calls."""
