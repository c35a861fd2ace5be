"""RTP and RTCP (RFC 3550), payload formats, feedback. Sans-IO: bytes in, values out, time is an argument."""
