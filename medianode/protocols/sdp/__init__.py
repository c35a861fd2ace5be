"""SDP as WHIP and WHEP use it: read an offer, decide, write the answer (RFC 8866, 8829, 9143)."""
