"""Doors in, from the wire to Packets, one file per door: RTMP(S) (`rtmp`), cameras over WebSocket (`ws_jpeg`)."""
