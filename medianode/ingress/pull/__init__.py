"""Pulling: sources that the node fetches itself.

`supervisor` decides when and how (pure), `service` runs them, `attempt` is one opening; one file per way to fetch.
"""
