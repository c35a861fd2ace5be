"""What is told of an ingress and of its session: the facts, in the shapes that `webhooks.outbox` lists."""

from __future__ import annotations

from medianode.control.ingress_state import State
from medianode.store.ingresses import Ingress, Standing
from medianode.store.presences import Presence
from medianode.webhooks.facts import Fact

IN_SESSION = (State.BUFFERING.value, State.ACTIVE.value)


def ingress_fact(type: str, ingress: Ingress, at: float, *, live: bool, id: str = "", **session: object) -> Fact:  # noqa: A002 - the fact's own names
    """`session`: what the type of fact adds (`resumed`, `code`, `message`, `duration`, `tracks`, `door`)."""
    data: dict[str, object] = {
        "ingressId": ingress.id,
        "kind": ingress.kind,
        "room": ingress.room,
        "identity": ingress.participant_identity,
        "name": ingress.participant_name,
        "door": ingress.door or "",
        "live": live,
        **session,
    }
    named = {"id": id} if id else {}
    return Fact(type=type, project_id=ingress.project_id, stream=ingress.id, at=at, data=data, **named)


def cut_off(ingress: Ingress, at: float, code: str, message: str, *, live: bool, until: float | None = None) -> tuple[list[Fact], Standing]:
    """The session that stands in its row is over, by no doing of its encoder: what is told of it, and how it stands then.

    `until`: wallclock of the last sign of life, where that was before `at`.
    """
    ended = at if until is None else min(at, max(until, ingress.started_at or 0.0))
    facts: list[Fact] = []
    held = ingress.state == State.BUFFERING.value and bool(ingress.error_code)
    if not held:
        tracks = shown(ingress.tracks) if ingress.state == State.ACTIVE.value else []
        facts.append(ingress_fact("ingress.disconnected", ingress, at, live=live, code=code, message=message, tracks=tracks))
    lost_at = ingress.lost_at if held and ingress.lost_at is not None else ended
    duration = 0.0 if ingress.started_at is None else max(0.0, lost_at - ingress.started_at)
    facts.append(ingress_fact("ingress.idle", ingress, at, live=live, code=code, message=message, duration=duration))
    standing = Standing(State.COMPLETE.value, code, message, ingress.started_at, ended, None, ingress.door, None, ingress.tracks)
    return facts, standing


def shown(tracks: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"kind": kind, "codec": codec} for kind, codec in tracks]


def publisher_fact(type: str, who: Presence, at: float, *, id: str = "", **session: object) -> Fact:  # noqa: A002 - the fact's own names
    data = {"room": who.room, "identity": who.identity, "name": who.name, "door": who.door, **session}
    named = {"id": id} if id else {}
    return Fact(type=type, project_id=who.project_id, stream=f"room:{who.room}", at=at, data=data, **named)


def room_fact(type: str, room: Presence, at: float, *, hls: bool, id: str = "") -> Fact:  # noqa: A002 - the fact's own names
    named = {"id": id} if id else {}
    return Fact(type=type, project_id=room.project_id, stream=f"room:{room.room}", at=at, data={"room": room.room, "hls": hls}, **named)
