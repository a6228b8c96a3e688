"""The transformers network of a config: its class, its parts, its head."""
