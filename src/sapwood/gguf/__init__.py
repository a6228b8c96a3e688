"""GGUF files: their layout, names, tokenizers and blocks."""
