"""Which layer of a simulcast publisher is the picture of the room: the best that is active, changed at key frames. Pure."""

from __future__ import annotations

SILENCE = 2.0
"""A layer of which no frame came for so long, or for `MISSED` of its usual intervals, is not active: encoders pause layers at will."""
SILENCE_LEAST = 0.6
MISSED = 8
UP_AFTER = 1.0
"""Seconds that a better layer must have been active before it is taken."""
UP_AFTER_FALL = 5.0
FALL_MEMORY = 30.0
"""For so long after the best layer went away a better one must prove itself for `UP_AFTER_FALL`."""
RATE_FACTOR = 1.5
"""Of two layers of one size the one with so many times the bytes is better."""


class Layer:
    """One encoding of the picture. `index`: its track's. `since`: active without a break from then on."""

    __slots__ = ("area", "index", "interval", "last_at", "rate", "rid", "since")

    def __init__(self, rid: str, index: int) -> None:
        self.rid = rid
        self.index = index
        self.area = 0
        self.rate = 0.0
        self.interval = 0.0
        self.since = 0.0
        self.last_at = -1e9

    def active(self, now: float) -> bool:
        patience = min(max(self.interval * MISSED, SILENCE_LEAST), SILENCE) if self.interval else SILENCE
        return now - self.last_at <= patience

    def count(self, nbytes: int, now: float) -> None:
        """One frame came."""
        if not self.active(now):
            self.since, self.interval, self.rate = now, 0.0, float(nbytes)
        elif self.interval:
            passed = now - self.last_at
            self.interval += (passed - self.interval) / 8
            self.rate += (nbytes - self.rate) / 32
        else:
            self.interval = now - self.last_at
        self.last_at = now

    def beats(self, other: Layer) -> bool:
        if self.area != other.area:
            return self.area > other.area
        return self.rate / (self.interval or 1.0) > RATE_FACTOR * other.rate / (other.interval or 1.0)


class LayerPicker:
    """`main`: index of the track that shows the best layer. `current`: that layer, None before the first key frame."""

    def __init__(self, main: int, layers: tuple[Layer, ...]) -> None:
        self.main = main
        self.layers = layers
        self.current: Layer | None = None
        self.switches = 0
        self._fell_at = -1e9

    def take(self, layer: Layer, *, keyframe: bool, area: int, nbytes: int, now: float, settled: bool) -> bool:
        """A frame of `layer` came: is it the room's picture? `settled`: readers have seen a track, and a change breaks their flow."""
        layer.count(nbytes, now)
        if area:
            layer.area = area
        if layer is self.current:
            return True
        if not keyframe or layer is not self._wanted(now, settled):
            return False
        if self.current is not None:
            self.switches += 1
            if not self.current.active(now):
                self._fell_at = now
        self.current = layer
        return True

    def wants_keyframe(self, now: float) -> bool:
        """Another layer should be shown, and waits for its key frame."""
        return self.current is not None and self._wanted(now, settled=True) is not self.current

    def _wanted(self, now: float, settled: bool) -> Layer | None:
        current = self.current
        best = current if current is not None and current.active(now) else None
        stable = UP_AFTER_FALL if now - self._fell_at < FALL_MEMORY else UP_AFTER
        for layer in self.layers:
            if layer is current or not layer.active(now):
                continue
            if best is None or (layer.beats(best) and (best is not current or not settled or now - layer.since >= stable)):
                best = layer
        return best or current
