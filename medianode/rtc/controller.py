"""ICE as a full agent that calls (RFC 8445 6 to 8): which checks go where and when, which pair wins, and consent from then on (RFC 7675).

Sans-IO: time is an argument, `poll` returns what is to be sent, `wake` says when to ask again. There is one local candidate, our socket,
so a pair is known by the remote address alone.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from medianode.protocols import stun
from medianode.protocols.sdp.accept import RemoteCandidate
from medianode.protocols.sdp.plan import Credentials

TA = 0.05
"""Seconds between two new checks (14.2)."""
RTO, MOST_RTO, SENDS = 0.25, 2.0, 7
"""Seconds to the first repetition, which double up to the second; so many datagrams in all (RFC 8489 6.2.1, with a smaller start)."""
PATIENCE = 0.3
"""Seconds for which a better pair is waited for once one is valid (8.1.1)."""
CONSENT = 5.0
"""Seconds between two requests for consent, give or take a fifth (RFC 7675 5.1)."""
MAX_PAIRS = 24
MAX_ANSWERS = 4
"""Requests for consent of which an answer still counts."""
PEER_REFLEXIVE = 110 << 24 | 65_535 << 8 | 255

Address = tuple[str, int]
State = Literal["checking", "connected", "failed"]


class Datagram(NamedTuple):
    data: bytes
    to: Address


@dataclass(slots=True, eq=False)
class _Pair:
    address: Address
    priority: int
    state: Literal["waiting", "checking", "valid", "failed"] = "waiting"
    nominated: bool = False
    """By the peer, while that is the one who controls."""


@dataclass(slots=True, eq=False)
class _Check:
    pair: _Pair
    data: bytes
    nominates: bool
    controlling: bool
    due: float
    rto: float = RTO
    sends: int = 1


class IceController:
    """`allows(host)`: whether a peer that asks from there may be sent checks. `consent`: seconds between two requests for it.

    All that is not signed with the right password is ignored.
    """

    def __init__(
        self,
        local: Credentials,
        remote: Credentials,
        candidates: Iterable[RemoteCandidate],
        *,
        allows: Callable[[str], bool],
        consent: float = CONSENT,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.local = local
        self.remote = remote
        self.controlling = True
        self.state: State = "checking"
        self.selected: Address | None = None
        self.heard = 0.0
        """When an answer or a check of the peer's came last."""
        self._allows = allows
        self._consent = consent
        self._random = random
        self._tie_breaker = int.from_bytes(random(8), "big")
        self._pairs: dict[Address, _Pair] = {}
        for each in candidates:
            self._pairs.setdefault((each.address, each.port), _Pair((each.address, each.port), each.priority))
        self._triggered: deque[_Pair] = deque()
        self._checks: dict[bytes, _Check] = {}
        self._consents: deque[bytes] = deque(maxlen=MAX_ANSWERS)
        self._start_at = 0.0
        self._valid_at: float | None = None
        self._consent_at = 0.0

    # -- time ---------------------------------------------------------------------------------------------------------------------------

    def poll(self, now: float) -> list[Datagram]:
        """What is to be sent now. May end in state `failed`: no address has answered."""
        if self.state == "connected":
            return self._ask_consent(now)
        if self.state == "failed":
            return []
        out = self._repeat(now)
        nominee = self._nominee(now)
        if nominee is not None:
            out.append(self._begin(nominee, now, nominates=True))
        if now >= self._start_at:
            pair = self._next()
            if pair is not None:
                self._start_at = now + TA
                out.append(self._begin(pair, now))
        if not self._checks and all(pair.state == "failed" for pair in self._pairs.values()):
            self.state = "failed"
        return out

    def wake(self, now: float) -> float | None:
        """When `poll` has something to do again; None: never. Not before `now`."""
        if self.state == "failed":
            return None
        if self.state == "connected":
            return max(now, self._consent_at)
        if self._nominee(now) is not None:
            return now
        times = [check.due for check in self._checks.values()]
        if self._triggered or any(pair.state == "waiting" for pair in self._pairs.values()):
            times.append(self._start_at)
        if self._valid_at is not None and self.controlling and now < self._valid_at + PATIENCE:
            times.append(self._valid_at + PATIENCE)
        return max(now, min(times)) if times else now + PATIENCE

    def _repeat(self, now: float) -> list[Datagram]:
        out = []
        for transaction, check in tuple(self._checks.items()):
            if now < check.due:
                continue
            if check.sends >= SENDS:
                del self._checks[transaction]
                check.pair.state = "failed"
                continue
            check.sends += 1
            check.rto = min(MOST_RTO, check.rto * 2)
            check.due = now + check.rto
            out.append(Datagram(check.data, check.pair.address))
        return out

    def _next(self) -> _Pair | None:
        """Triggered checks first, then the best candidate that nobody has tried."""
        while self._triggered:
            pair = self._triggered.popleft()
            if pair.state in ("waiting", "failed"):
                return pair
        waiting = [pair for pair in self._pairs.values() if pair.state == "waiting"]
        return max(waiting, key=lambda pair: pair.priority, default=None)

    def _nominee(self, now: float) -> _Pair | None:
        """The best valid pair, once no better one can be hoped for."""
        if not self.controlling or any(check.nominates for check in self._checks.values()):
            return None
        best = max((pair for pair in self._pairs.values() if pair.state == "valid"), key=lambda pair: pair.priority, default=None)
        if best is None or self._valid_at is None:
            return None
        better = any(p.state in ("waiting", "checking") and p.priority > best.priority for p in self._pairs.values())
        return best if not better or now >= self._valid_at + PATIENCE else None

    def _begin(self, pair: _Pair, now: float, *, nominates: bool = False) -> Datagram:
        if not nominates:
            pair.state = "checking"
        transaction = self._random(12)
        data = self._request(transaction, nominates=nominates)
        self._checks[transaction] = _Check(pair, data, nominates, self.controlling, now + RTO)
        return Datagram(data, pair.address)

    def _request(self, transaction: bytes, *, nominates: bool) -> bytes:
        name = f"{self.remote.ufrag}:{self.local.ufrag}".encode()
        role = {"controlling" if self.controlling else "controlled": self._tie_breaker}
        return stun.binding_request(
            transaction, name, self.remote.pwd.encode(), priority=PEER_REFLEXIVE, use_candidate=nominates and self.controlling, **role
        )

    def _ask_consent(self, now: float) -> list[Datagram]:
        """Each request by itself, not repeated (RFC 7675 5.1)."""
        if now < self._consent_at or self.selected is None:
            return []
        self._consent_at = now + self._consent * (0.8 + 0.4 * self._random(1)[0] / 255)
        transaction = self._random(12)
        self._consents.append(transaction)
        return [Datagram(self._request(transaction, nominates=False), self.selected)]

    # -- what comes ---------------------------------------------------------------------------------------------------------------------

    def response(self, data: bytes, source: Address, now: float) -> bool:
        """An answer to a check of ours. False for what is none: unknown, unsigned, or from elsewhere than it was asked (7.2.5.2.1)."""
        message = stun.parse(data)
        if message is None or message.is_request or not stun.verify(data, self.remote.pwd.encode()):
            return False
        if message.transaction in self._consents:
            if source != self.selected or message.type != stun.BINDING_RESPONSE:
                return False
            self.heard = now
            return True
        check = self._checks.get(message.transaction)
        if check is None or source != check.pair.address:
            return False
        del self._checks[message.transaction]
        self.heard = now
        if message.type == stun.BINDING_RESPONSE:
            self._succeeded(check, now)
        elif message.error == 487:
            self._conflict(check)
        else:
            check.pair.state = "failed"
        return True

    def _succeeded(self, check: _Check, now: float) -> None:
        check.pair.state = "valid"
        if self._valid_at is None:
            self._valid_at = now
        if (check.nominates and check.controlling) or (check.pair.nominated and not self.controlling):
            self._select(check.pair, now)

    def _conflict(self, check: _Check) -> None:
        """7.2.5.1: both sides thought the same of themselves."""
        if check.controlling == self.controlling:
            self._switch(controlling=not check.controlling)
            self._tie_breaker = int.from_bytes(self._random(8), "big")
        check.pair.state = "waiting"
        self._triggered.append(check.pair)

    def _switch(self, *, controlling: bool) -> None:
        self.controlling = controlling
        # what is under way says the old role, and would only be refused
        for check in self._checks.values():
            check.pair.state = "waiting"
        self._checks.clear()
        self._start_at = 0.0

    def _select(self, pair: _Pair, now: float) -> None:
        self.selected = pair.address
        if self.state != "connected":
            self.state = "connected"
            self._checks.clear()
            self._triggered.clear()
            self._consent_at = now + self._consent * 0.8

    def request(self, data: bytes, source: Address, now: float) -> bytes | None:
        """A check of the peer's (it is a full agent, too). Its answer; None for what gets none."""
        key = self.local.pwd.encode()
        if stun.peek_username(data) != self.local.ufrag.encode() or not stun.verify(data, key):
            return None
        message = stun.parse(data)
        if message is None or not self._known(source):
            return None
        if message.unknown:
            return stun.error_response(message, 420, key, message.unknown)
        if self._refuses(message):
            return stun.error_response(message, 487, key)
        self.heard = now
        self._trigger(source, message, now)
        return stun.binding_response(message, source, key)

    def _known(self, source: Address) -> bool:
        return source in self._pairs or (len(self._pairs) < MAX_PAIRS and self._allows(source[0]))

    def _refuses(self, message: stun.Message) -> bool:
        """7.3.1.1: the larger tie-breaker controls. Once connected nobody changes roles."""
        theirs = message.controlling if self.controlling else message.controlled
        if theirs is None:
            return False
        if (self._tie_breaker >= theirs) == self.controlling or self.state == "connected":
            return True
        self._switch(controlling=not self.controlling)
        return False

    def _trigger(self, source: Address, message: stun.Message, now: float) -> None:
        """7.3.1.4: ask back at once where it asks from. An address that no candidate has is one by that (7.3.1.3)."""
        pair = self._pairs.get(source)
        if pair is None:
            pair = self._pairs[source] = _Pair(source, message.priority)
        if message.use_candidate and not self.controlling:
            pair.nominated = True
            if pair.state == "valid":
                self._select(pair, now)
                return
        if self.state != "checking":
            return
        if pair.state in ("waiting", "failed"):
            if pair not in self._triggered:
                self._triggered.append(pair)
            self._start_at = min(self._start_at, now)
        for check in self._checks.values():
            if check.pair is pair:
                check.due = min(check.due, now + TA)
