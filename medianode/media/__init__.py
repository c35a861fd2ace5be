"""Media as data: tracks, packets, timelines, GOPs and queue policies. Pure: no IO, no clock."""
