"""StreamHub's `/api/v1/apps/:app/…` (contracts 2): bodies in `{data: …}`, lists with total, limit and offset, POSTs answer 201."""

from __future__ import annotations

from medianode.api.streamhub.cameras import Cameras
from medianode.api.streamhub.ingress import Ingress
from medianode.api.streamhub.streams import Streams
from medianode.api.streamhub.tokens import Tokens
from medianode.api.streamhub.vods import Vods

__all__ = ["Cameras", "Ingress", "Streams", "Tokens", "Vods"]
