"""Verbs on adapters that lie by themselves."""
