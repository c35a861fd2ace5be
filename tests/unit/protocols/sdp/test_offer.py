"""Offers of ours, and what answers to them say."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.codecs import h264
from medianode.errors import LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind, Track
from medianode.protocols.sdp.accept import MAX_CANDIDATES, RemoteCandidate, read_answer
from medianode.protocols.sdp.answer import answer_whip
from medianode.protocols.sdp.negotiate import plan_whip
from medianode.protocols.sdp.offer import OfferedMedia, offered_audio, offered_video, write_offer
from medianode.protocols.sdp.parse import parse_offer
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport

HIGH = bytes.fromhex("6764000dacd94141fb0110000003001000000303c0f1429960")
FINGERPRINT = Fingerprint("sha-256", ":".join(["AB"] * 32))
LOCAL = LocalTransport(Credentials("ours", "o" * 24), FINGERPRINT, (Candidate("192.0.2.1", 5000, "udp", 2_130_706_431, "1"),))
THEIRS = LocalTransport(Credentials("them", "t" * 24), FINGERPRINT, (Candidate("198.51.100.1", 8189, "udp", 2_130_706_431, "1"),))


def track(codec: Codec, config: bytes = b"") -> Track:
    return Track(0, codec, 90_000, config, 320, 240)


HIGH_TRACK = track(Codec.H264, h264.build_avcc((HIGH,), (bytes.fromhex("68ebe3cb22c0"),)))
VIDEO = OfferedMedia("0", Kind.VIDEO, offered_video(HIGH_TRACK), 1000)
AUDIO = OfferedMedia("1", Kind.AUDIO, offered_audio(), 2000)


def answered(*media: OfferedMedia) -> str:
    """As our own node answers it."""
    offer = parse_offer(write_offer(LOCAL, media, "name"))
    return answer_whip(offer, THEIRS, plan_whip(offer))


def test_our_own_door_reads_what_we_write() -> None:
    offer = parse_offer(write_offer(LOCAL, (VIDEO, AUDIO), "name"))
    assert offer.bundle == ("0", "1")
    assert (offer.remote.credentials, offer.remote.fingerprints, offer.remote.setup) == (LOCAL.credentials, (FINGERPRINT,), "actpass")
    assert not offer.ice_lite
    video, audio = plan_whip(offer)
    assert [codec.fmtp["profile-level-id"] for codec in video.codecs.values()] == ["64000d", "42e01f"]
    assert (video.ssrcs, audio.ssrcs) == ((1000,), (2000,))
    assert [codec.codec for codec in audio.codecs.values()] == [Codec.OPUS]
    assert offer.sections[0].candidates == 1
    assert all(section.rtcp_mux and section.direction == "sendonly" for section in offer.sections)


@pytest.mark.parametrize("codec", [Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1])
def test_the_streams_own_codec_comes_before_h264(codec: Codec) -> None:
    assert [each.codec for each in offered_video(track(codec))] == [codec, Codec.H264]
    payload_types = [each.payload_type for each in offered_video(track(codec))]
    assert len(set(payload_types)) == len(payload_types)


def test_constrained_baseline_is_offered_once() -> None:
    assert len(offered_video(None)) == 1
    assert len(offered_video(track(Codec.H264, bytes.fromhex("0142e01fff")))) == 1


def test_an_answer_is_read() -> None:
    accepted = read_answer(answered(VIDEO, AUDIO), (VIDEO, AUDIO))
    assert accepted.candidates == (RemoteCandidate("198.51.100.1", 8189, 2_130_706_431),)
    assert accepted.remote.credentials == THEIRS.credentials
    assert accepted.remote.setup == "passive"
    assert [(send.mid, send.codec, send.payload_type) for send in accepted.sends] == [("0", Codec.H264, 96), ("1", Codec.OPUS, 111)]
    assert accepted.refused == ()


def test_the_answers_payload_types_and_choice_count() -> None:
    offered = OfferedMedia("0", Kind.VIDEO, offered_video(track(Codec.AV1)), 1000)
    text = answered(offered).replace("m=video 9 UDP/TLS/RTP/SAVPF 96 97", "m=video 9 UDP/TLS/RTP/SAVPF 97 96")
    (send,) = read_answer(text, (offered,)).sends
    assert (send.codec, send.payload_type) == (Codec.H264, 97)
    moved = text.replace("97", "120").replace("96", "121")
    assert read_answer(moved, (offered,)).sends[0].payload_type == 120


def test_sound_may_be_refused_but_pictures_not() -> None:
    text = answered(VIDEO, AUDIO)
    mute = text.replace("m=audio 9", "m=audio 0").replace("BUNDLE 0 1", "BUNDLE 0")
    assert read_answer(mute, (VIDEO, AUDIO)).refused == (Kind.AUDIO,)
    blind = text.replace("m=video 9", "m=video 0").replace("BUNDLE 0 1", "BUNDLE 1")
    with pytest.raises(UnsupportedMedia, match="H264"):
        read_answer(blind, (VIDEO, AUDIO))
    with pytest.raises(UnsupportedMedia):
        read_answer(text.replace("a=recvonly", "a=inactive"), (VIDEO, AUDIO))


def test_candidates_that_count() -> None:
    lines = [
        "a=candidate:1 1 UDP 100 192.0.2.9 1000 typ host",
        "a=candidate:2 1 udp 900 2001:DB8::0:1 1001 typ srflx raddr 0.0.0.0 rport 0",
        "a=candidate:3 2 udp 999 192.0.2.3 1002 typ host",
        "a=candidate:4 1 tcp 999 192.0.2.4 9 typ host tcptype active",
        "a=candidate:5 1 udp 999 6b0fd8d5-1ba4.local 1003 typ host",
        "a=candidate:6 1 udp 999 192.0.2.6 0 typ host",
        "a=candidate:7 1 udp 999 192.0.2.6 99999 typ host",
        "a=candidate:8 1 udp -1 192.0.2.6 1 typ host",
        "a=candidate:9 1 udp",
        "a=candidate:1 1 UDP 90 192.0.2.9 1000 typ host",
        *(f"a=candidate:1 1 udp 50 198.51.100.{i} 1 typ host" for i in range(100)),
    ]
    text = answered(VIDEO).replace("a=candidate:1 1 udp 2130706431 198.51.100.1 8189 typ host", "\r\n".join(lines))
    found = read_answer(text, (VIDEO,)).candidates
    assert found[:2] == (RemoteCandidate("2001:db8::1", 1001, 900), RemoteCandidate("192.0.2.9", 1000, 100))
    assert len(found) == MAX_CANDIDATES


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("v=0", "hello", "begins with v=0"),
        ("m=audio", "m=application", "in their order"),
        ("a=mid:1", "a=mid:7", "in their order"),
        ("a=group:BUNDLE 0 1\r\n", "", "BUNDLE"),
        ("a=fingerprint:sha-256", "a=fingerprint:md5", "fingerprint"),
        ("a=ice-pwd:", "a=nothing:", "ice-pwd"),
    ],
)
def test_answers_that_are_none(old: str, new: str, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected) as caught:
        read_answer(answered(VIDEO, AUDIO).replace(old, new), (VIDEO, AUDIO))
    assert caught.value.code == "bad-answer"


def test_other_sections_than_were_offered_and_too_many_bytes() -> None:
    with pytest.raises(ProtocolError, match="2 m-sections"):
        read_answer(answered(VIDEO), (VIDEO, AUDIO))
    with pytest.raises(LimitExceeded):
        read_answer(answered(VIDEO), (VIDEO,), 100)


@given(st.text(max_size=400), st.integers(0, 2000), st.integers(0, 300))
def test_garbage_gives_peer_errors_only(garbage: str, at: int, less: int) -> None:
    text = answered(VIDEO, AUDIO)
    at %= len(text)
    with contextlib.suppress(PeerError):
        read_answer(text[:at] + garbage + text[at + less :], (VIDEO, AUDIO))
