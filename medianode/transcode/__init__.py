"""TODO transcode."""
