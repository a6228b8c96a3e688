"""What a pass through the model computes beside the large products."""
