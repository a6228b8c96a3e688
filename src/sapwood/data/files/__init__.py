"""Files to numbered rows."""
