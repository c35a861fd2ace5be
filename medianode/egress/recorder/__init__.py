"""Recorder: packets into fragmented MP4 on disk, as they come, so that nothing but the last second can be lost."""
