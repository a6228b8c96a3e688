"""The calls of a script as settings: which loads, which trains, where rows come from."""
