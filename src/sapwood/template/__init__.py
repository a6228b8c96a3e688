"""Conversations to text, tokens and proven labels."""
