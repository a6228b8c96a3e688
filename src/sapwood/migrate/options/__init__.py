"""The options of a script, and the values that a command line or a config file gives them."""
