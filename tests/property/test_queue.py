"""The invariants of every reader's queue, and of the timeline."""

from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import SlowConsumer
from medianode.media.packet import Gap, Packet
from medianode.media.queue import Bounds, PacketQueue, Policy
from medianode.media.timeline import Timeline
from medianode.media.track import Codec, Track

VIDEO = Track(0, Codec.H264, 90_000)
AUDIO = Track(1, Codec.AAC, 48_000)
BOUNDS = Bounds(packets=12, nbytes=120, seconds=5.0)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("video"), st.booleans(), st.integers(1, 40)),
        st.tuples(st.just("audio"), st.just(True), st.integers(1, 20)),
        st.tuples(st.just("pop"), st.booleans(), st.integers(1, 6)),
        st.tuples(st.just("gap"), st.booleans(), st.just(0)),
    ),
    max_size=120,
)


@given(steps, st.sampled_from(Policy))
def test_invariants(script: list[tuple[str, bool, int]], policy: Policy) -> None:
    queue = PacketQueue(policy, BOUNDS, has_video=True)
    got: list[Packet | Gap] = []
    slow = False
    for at, (what, key, size) in enumerate(script):
        if what == "pop":
            got += [item for item in (queue.pop() for _ in range(size)) if item is not None]
        elif what == "gap":
            queue.push_gap(Gap("publisher-gap"), has_video=True)
        else:
            track = VIDEO if what == "video" else AUDIO
            try:
                queue.push(Packet(track, bytes(size), at, at, key, at / 4))
            except SlowConsumer:
                assert policy is Policy.LOSSLESS
                slow = True
        assert len(queue) <= BOUNDS.packets
        assert queue.nbytes <= BOUNDS.nbytes
        assert queue.seconds <= BOUNDS.seconds
        assert queue.delivered + queue.dropped + len(queue) == queue.pushed
    while (item := queue.pop()) is not None:
        got.append(item)
    order = [p.dts for p in got if isinstance(p, Packet)]
    assert order == sorted(order)
    if policy is Policy.LOSSLESS and slow:
        return
    fresh = True
    for item in got:
        if isinstance(item, Gap):
            fresh = True
        elif item.track.is_video:
            assert item.keyframe or not fresh or policy is Policy.LATEST
            fresh = False
        else:
            assert not fresh or policy is Policy.LATEST, "audio must not open the gate"


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1 << 33), st.floats(0, 20, allow_nan=False)), max_size=60))
def test_time_never_goes_back_and_never_leaps(script: list[tuple[int, int, float]]) -> None:
    timeline = Timeline()
    last: dict[int, tuple[int, float]] = {}
    now = 0.0
    for track, ms, passed in script:
        now += passed
        out = timeline.place(track, ms, now).ms
        if track in last:
            step = out - last[track][0]
            assert 0 <= step <= (now - last[track][1]) * 1000 + 10_001
        last[track] = (out, now)
