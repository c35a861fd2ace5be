"""Doors out, Packet to wire, one per file or package: hls, mjpeg, ws_live, rtmp_play. Each is slow only to itself."""
