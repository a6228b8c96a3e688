"""What llama.cpp computes for each architecture: the rows, and the names of their tensors."""
