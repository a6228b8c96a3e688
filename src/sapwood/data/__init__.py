"""Files and hubs to numbered rows; rows to conversations."""
