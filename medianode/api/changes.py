"""What the dialects say alike of an ingress: where it is fetched from, and what may be changed of it while it runs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from medianode.control.ingresses import URL_LENGTH, Ingresses
from medianode.control.sources import PullChange, PullOptions, Sources, Wait
from medianode.ingress.pull.order import Transport
from medianode.store.ingresses import Ingress

Url = Annotated[str, Meta(max_length=URL_LENGTH)]


class NewPull(msgspec.Struct, rename="camel", kw_only=True):
    """Of an ingress that is to be fetched."""

    url: Url = ""
    transport: Transport = "auto"
    on_demand: bool = False
    silence: Wait | None = None
    frozen_video: Wait | None = None

    @property
    def options(self) -> PullOptions:
        return PullOptions(self.transport, self.on_demand, self.silence, self.frozen_video)


class PullUpdate(PullChange, rename="camel"):
    """What is absent stays as it is; what is being fetched is fetched anew. `silence` and `frozenVideo` null: the node's."""

    url: Url | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class ChangeIngress(PullUpdate, rename="camel"):
    """What is absent stays as it is; it counts at once, for a session that is on air too."""

    record: bool | UnsetType = UNSET


async def change_ingress(ingress: Ingress, change: ChangeIngress, ingresses: Ingresses, sources: Sources) -> Ingress:
    """The source first: one that does not hold changes nothing. Raises NotFound, InvalidRequest."""
    ingress = await sources.follow(ingress, change, change.enabled)
    if change.record is not UNSET:
        ingress = await ingresses.set_record(ingress.project_id, ingress.id, change.record)
    return ingress
