"""Examples side by side in one forward pass, without seeing each other."""
