"""Linears with adapters: all that read one input are one function."""
