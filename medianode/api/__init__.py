"""The HTTP API: typed routes in the vendors' dialects over `control` and the live state."""

from medianode.api.server import Api
from medianode.api.urls import Ports

__all__ = ["Api", "Ports"]
