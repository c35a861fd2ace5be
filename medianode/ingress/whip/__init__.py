"""The WHIP door (RFC 9725): browsers, OBS, FFmpeg and GStreamer publish by WebRTC."""
