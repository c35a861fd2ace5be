"""Playback: what the recorder wrote, over the very same files: HLS by byte ranges, clips as progressive MP4, pictures."""
