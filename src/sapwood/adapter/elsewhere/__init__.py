"""Adapters of other programs, read as what PEFT would have saved: settings and tensors."""
