"""WHEP: viewers over WebRTC."""
