"""RTSP 1.0 (RFC 2326), a client's side: requests, answers, authentication, descriptions. Bytes in, events out."""
