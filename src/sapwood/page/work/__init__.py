"""Processes of their own: command lines that the page starts, and helpers that compute for it."""
