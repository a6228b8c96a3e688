"""llama.cpp in a process of its own: asked question by question, or by many callers at once."""
