"""The local page: runs, data, answers, exports to look at; it starts what the command line starts."""
