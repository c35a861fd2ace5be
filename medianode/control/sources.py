"""Sources: the URLs that ingresses of kind `url` are fetched from, and how. Credentials in them are sealed and never shown."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.auth import Door
from medianode.control.ingresses import Ingresses
from medianode.errors import InvalidRequest
from medianode.ingress.pull.order import SCHEMES, Transport
from medianode.outbound import Outbound
from medianode.store import ingresses as table
from medianode.store.database import Transaction
from medianode.store.ingresses import Ingress

Wait = Annotated[float, Meta(ge=1, le=300)]
_IN_PATH = re.compile(r"(?i)((?:password|passwd|pwd|token|secret)=).+?(?=[&;/]|_[a-z]+=|$)")
"""As cheap cameras have it: rtsp://HOST/user=admin_password=…_channel=1_stream=0.sdp."""


class PullOptions(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """`transport` of RTSP; `auto` falls back from UDP to TCP to the HTTP tunnel. `on_demand`: opened when somebody asks for its room, and
    closed pull.on_demand_idle seconds after the last reader. `silence`, `frozen_video`: seconds without a byte, or a picture, until it is
    connected to anew; None: the node's.
    """

    transport: Transport = "auto"
    on_demand: bool = False
    silence: Wait | None = None
    frozen_video: Wait | None = None


class PullChange(msgspec.Struct, rename="camel"):
    """What is absent stays as it is."""

    url: str | UnsetType = UNSET
    transport: Transport | UnsetType = UNSET
    on_demand: bool | UnsetType = UNSET
    silence: Wait | UnsetType | None = UNSET
    frozen_video: Wait | UnsetType | None = UNSET

    @property
    def empty(self) -> bool:
        return all(getattr(self, name) is UNSET for name in PullChange.__struct_fields__)  # requests' bodies have more


class Sources:
    def __init__(self, ingresses: Ingresses, outbound: Outbound) -> None:
        self._ingresses = ingresses
        self._outbound = outbound

    async def check(self, url: str, options: PullOptions) -> dict[str, Any]:
        """What is stored of the options. Raises InvalidRequest: `url` is none that can be fetched (`private-address`), or they do not fit
        it. The message has nothing of its credentials.
        """
        if not url:
            raise InvalidRequest("url: expected an address with inputType url, got nothing")
        parts = await self._outbound.check(url, SCHEMES)
        if options.transport != "auto" and parts.scheme not in ("rtsp", "rtsps"):
            raise InvalidRequest(f"transport: expected with rtsp:// only, got {options.transport} with {parts.scheme}://")
        stored = msgspec.to_builtins(options)
        assert isinstance(stored, dict)
        return stored

    async def change(self, project_id: str, ingress_id: str, change: PullChange) -> Ingress:
        """What is being fetched is fetched anew. Raises NotFound, InvalidRequest."""
        now = await self._ingresses.get(project_id, ingress_id)
        if now.kind != Door.URL:
            raise InvalidRequest("url: expected an ingress with inputType url, this one has an encoder of its own")
        url = now.url or "" if isinstance(change.url, UnsetType) else change.url
        given = {name: value for name in PullOptions.__struct_fields__ if (value := getattr(change, name)) is not UNSET}
        stored = await self.check(url, msgspec.structs.replace(options_of(now), **given))

        async def alter(tx: Transaction, ingress: Ingress) -> None:
            await table.set_source(tx, ingress.id, url, stored)

        return await self._ingresses.change(project_id, ingress_id, alter, source=masked_source(url), **stored)

    async def follow(self, ingress: Ingress, change: PullChange, enabled: bool | UnsetType) -> Ingress:
        """A dialect's PATCH: what it says of the source, and on or off. Raises as `change`."""
        if not change.empty:
            ingress = await self.change(ingress.project_id, ingress.id, change)
        if not isinstance(enabled, UnsetType) and enabled != (ingress.disabled_at is None):
            ingress = await self._ingresses.set_disabled(ingress.project_id, ingress.id, not enabled)
        return ingress


def options_of(ingress: Ingress) -> PullOptions:
    """Those stored; the defaults where an older row has none."""
    return msgspec.convert(dict(ingress.pull or {}), PullOptions)


def masked_source(url: str) -> str:
    """As it may be shown: without the password, without the values of a query (SRT's passphrase, tokens) and, of RTMP, without what may be
    a stream key.
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username}:***@" if parts.username else "***@" if "@" in parts.netloc else ""
    path = _IN_PATH.sub(r"\1***", parts.path)
    if parts.scheme.startswith("rtmp"):
        head, slash, last = path.rpartition("/")
        path = f"{head}{slash}***" if last else path
    query = "&".join(f"{item.partition('=')[0]}=***" if "=" in item else "***" for item in parts.query.split("&") if item)
    return f"{parts.scheme}://{user}{host}{path}{'?' + query if query else ''}"
