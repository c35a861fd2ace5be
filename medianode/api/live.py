"""What the dialects ask of the live state: how an ingress stands, and which Publication it feeds."""

from __future__ import annotations

from dataclasses import replace

from medianode import clock
from medianode.auth import Door
from medianode.control.ingress_state import Life, State
from medianode.control.lifecycle import IngressLives
from medianode.control.pulls import Pulls
from medianode.ingress.pull.order import PullState
from medianode.routing.publication import Publication
from medianode.routing.registry import Registry
from medianode.store.ingresses import Ingress

_IN_SESSION = (State.BUFFERING, State.ACTIVE)


class Live:
    """The stored row follows the live state by a moment; where both are known the live one is told. Of one that is fetched, how that goes
    while it has no session.
    """

    def __init__(self, registry: Registry, lives: IngressLives, pulls: Pulls) -> None:
        self._registry = registry
        self._lives = lives
        self._pulls = pulls

    def publication(self, ingress: Ingress) -> Publication | None:
        room = self._registry.find(ingress.project_id, ingress.room)
        found = room.publications.get(ingress.participant_identity) if room else None
        return found if found is not None and found.grant.ingress_id == ingress.id else None

    def state(self, ingress: Ingress) -> State:
        life = self._life(ingress)
        state = State(ingress.state) if life is None else life.state
        pull = self.pull(ingress)
        if pull is None or state in _IN_SESSION or ingress.disabled_at is not None:
            return state
        return State.ERROR if pull.state == "waiting" and pull.code else State.BUFFERING if pull.state == "opening" else state

    def pull(self, ingress: Ingress) -> PullState | None:
        """How its source is fetched; None where it is not one that is."""
        return self._pulls.state(ingress) if ingress.kind == Door.URL else None

    def error(self, ingress: Ingress) -> str | None:
        """Why it was lost or failed, in words; None while all is well, and after an end that was no failure."""
        if self.state(ingress) is State.COMPLETE:
            return None
        if (pull := self.pull(ingress)) is not None and pull.message and ingress.disabled_at is None:
            return pull.message
        life = self._life(ingress)
        return (ingress.error_message or ingress.error_code if life is None else life.message or life.code) or None

    def _life(self, ingress: Ingress) -> Life | None:
        """None where the row knows better: what ended here says nothing of a session that another node has now."""
        life = self._lives.life(ingress.id)
        elsewhere = ingress.node_id not in (None, self._lives.node_id)
        return None if elsewhere and life is not None and life.state not in _IN_SESSION else life

    def hold(self, ingress: Ingress, seconds: float) -> None:
        """How long the publication that there is now waits for its encoder."""
        publication = self.publication(ingress)
        if publication is not None:
            publication.grant = replace(publication.grant, hold=seconds)

    def viewers(self, ingress: Ingress) -> int:
        """Of its room."""
        room = self._registry.find(ingress.project_id, ingress.room)
        return sum(room.viewers.values()) if room else 0


def instant(seconds: float | None) -> str | None:
    """RFC 3339 of a wallclock, or None."""
    return None if seconds is None else clock.iso(seconds)
