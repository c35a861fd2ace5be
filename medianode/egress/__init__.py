"""TODO egress."""
