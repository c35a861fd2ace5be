"""Rooms, publications and fan-out: sync, in the loop, O(subscribers) per packet."""
