"""Answers of a model that is loaded here: by llama.cpp, which is faster, if it can hold the model."""
