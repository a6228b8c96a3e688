"""The adapter: how it is put on a base, and its folder."""
