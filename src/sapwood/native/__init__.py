"""Kernels compiled for the processor at hand: what an adapter costs besides its large products."""
