"""Decoding and encoding, the only home of PyAV. Live passthrough never comes here; whoever needs another codec asks for a Rendition.

One OS thread per pipeline: a bounded Mailbox in, one batched `call_soon_threadsafe` out. A PyAV object belongs to one thread for life.
"""
