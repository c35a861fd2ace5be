"""Wire formats, sans-IO: bytes in, events out; no socket, no clock, no log."""
