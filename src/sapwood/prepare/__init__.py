"""Conversations to proven examples, and all that is known of a run before a weight is loaded."""
