"""TODO control."""
