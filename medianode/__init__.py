"""medianode: a self-hosted media node. One asyncio daemon; media is routed encoded."""

__version__ = "0.1.0"
