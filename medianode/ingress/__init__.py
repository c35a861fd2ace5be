"""TODO ingress."""
