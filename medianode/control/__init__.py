"""Use cases on the domain: what an operator or a client may ask for, whatever the dialect that it asks in."""
