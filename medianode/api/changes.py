"""What may be changed of an ingress while it runs: the same in our own dialect, StreamHub's and BaxCloud's."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.control.ingresses import URL_LENGTH
from medianode.control.sources import Wait
from medianode.ingress.pull.order import Transport


class PullUpdate(msgspec.Struct, rename="camel"):
    """What is absent stays as it is; what is being fetched is fetched anew. `silence` and `frozenVideo` null: the node's."""

    url: Annotated[str, Meta(max_length=URL_LENGTH)] | UnsetType = UNSET
    transport: Transport | UnsetType = UNSET
    on_demand: bool | UnsetType = UNSET
    silence: Wait | UnsetType | None = UNSET
    frozen_video: Wait | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class ChangeIngress(PullUpdate, rename="camel"):
    """What is absent stays as it is; it counts at once, for a session that is on air too."""

    record: bool | UnsetType = UNSET
