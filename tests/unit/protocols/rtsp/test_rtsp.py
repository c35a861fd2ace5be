"""RTSP of a client: messages cut anywhere, challenges, descriptions of real cameras."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medianode.errors import LimitExceeded, PeerError, ProtocolError, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.protocols.rtsp import messages
from medianode.protocols.rtsp.auth import Authentication, parse_challenge
from medianode.protocols.rtsp.client import MAX_AHEAD, MAX_FRAME_BYTES, ClientConnection
from medianode.protocols.rtsp.description import choose, parse_description
from medianode.protocols.rtsp.messages import (
    MAX_GARBAGE,
    MAX_MESSAGES,
    Frame,
    Message,
    Response,
    ServerRequest,
    Splitter,
    build_request,
    parse_parameters,
)

ALL = frozenset(Kind)
WIRE = (
    b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: 12;timeout=30\r\nContent-Length: 5\r\n\r\nhello"
    b"$\x00\x00\x04abcd\r\n"
    b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n"
    b"$\x01\x00\x00"
    b"RTSP/1.0 401 Unauthorized\r\ncseq:4\r\nWWW-Authenticate: Basic realm=x\r\nWWW-Authenticate: Digest realm=y, nonce=z\r\n\r\n"
)
PARSED: list[Message] = [
    Response(200, "OK", {"cseq": ["3"], "session": ["12;timeout=30"], "content-length": ["5"]}, b"hello"),
    Frame(0, b"abcd"),
    ServerRequest("OPTIONS", {"cseq": ["9"]}),
    Frame(1, b""),
    Response(401, "Unauthorized", {"cseq": ["4"], "www-authenticate": ["Basic realm=x", "Digest realm=y, nonce=z"]}, b""),
]


@given(st.lists(st.integers(1, 40), max_size=40))
def test_cut_anywhere(cuts: list[int]) -> None:
    splitter, out, at = Splitter(), [], 0
    for size in [*cuts, len(WIRE)]:
        out += splitter.feed(WIRE[at : at + size])
        at += size
    assert out == PARSED
    assert len(splitter) == 0


@given(st.binary(max_size=4000), st.integers(1, 500))
def test_garbage_gives_peer_errors_only_and_is_bounded(data: bytes, step: int) -> None:
    splitter = Splitter()
    try:
        for at in range(0, len(data), step):
            splitter.feed(data[at : at + step])
            assert len(splitter) <= 65_536 + 4 + step
    except PeerError:
        pass


def test_stray_bytes_between_frames_are_passed_over_but_not_for_ever() -> None:
    splitter = Splitter()
    assert splitter.feed(b"\x00\x00zz$\x00\x00\x01a$\x00\x00\x01b") == [Frame(0, b"a"), Frame(0, b"b")]
    with pytest.raises(ProtocolError):
        splitter.feed(b"\x00" * (messages.MAX_GARBAGE + 1))


@pytest.mark.parametrize(
    "wire",
    [
        b"RTSP/1.0 200 OK\r\nContent-Length: 999999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: x\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n" + b"A" * 20_000,
        b"RTSP/1.0 200 OK\r\n" + b"a:b\r\n" * 200 + b"\r\n",
        b"RTSP/1.0 2x0 OK\r\n\r\n",
    ],
)
def test_over_the_bounds(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        Splitter().feed(wire)


def test_a_value_cannot_end_its_line() -> None:
    with pytest.raises(ProtocolError):
        build_request("SETUP", "rtsp://h/a\r\nX: y", {})
    assert build_request("PLAY", "rtsp://h/", {"CSeq": "1"}) == b"PLAY rtsp://h/ RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    assert parse_parameters('RTP/AVP;unicast;client_port=1-2;ssrc="AB"') == {
        "rtp/avp": "",
        "unicast": "",
        "client_port": "1-2",
        "ssrc": "AB",
    }


def test_digest_of_rfc_7616() -> None:
    """3.9.1, both algorithms; the stronger is taken."""
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    head = f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={{}}, nonce="{nonce}", opaque="o"'
    for algorithm, response in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        a = Authentication("Mufasa", "Circle of Life", lambda: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
        assert a.header("GET", "/dir/index.html") is None
        assert a.challenged([head.format("MD5"), head.format(algorithm)])
        assert f'response="{response}"' in (a.header("GET", "/dir/index.html") or "")
        assert "Circle" not in repr(a)


def test_digest_of_old_cameras_and_basic() -> None:
    a = Authentication("u", "p", lambda: "c")
    assert a.challenged(['Digest realm="r", nonce="n"'])
    first = hashlib.md5(b"u:r:p").hexdigest()
    second = hashlib.md5(b"DESCRIBE:rtsp://h/").hexdigest()
    assert f'response="{hashlib.md5(f"{first}:n:{second}".encode()).hexdigest()}"' in (a.header("DESCRIBE", "rtsp://h/") or "")
    assert not a.challenged(['Digest realm="r", nonce="n2"'])  # refused: the password is wrong
    assert a.challenged(['Digest realm="r", nonce="n3", stale=TRUE'])
    b = Authentication("u", "p:q", lambda: "c")
    assert b.challenged(["Basic realm=x"])
    assert b.header("X", "y") == "Basic " + base64.b64encode(b"u:p:q").decode()
    assert not b.challenged(["Basic realm=x"])
    assert not Authentication("", "", lambda: "c").challenged(["Basic realm=x"])
    assert parse_challenge('Digest realm="a\\"b", qop=auth')["realm"] == 'a"b'


def test_a_challenge_is_answered_under_the_owners_number() -> None:
    c = ClientConnection("u", "p", lambda: "c")
    first = c.request("DESCRIBE", "rtsp://h/")
    c.data_to_send()
    c.receive_data(b'RTSP/1.0 401 No\r\nCSeq: 1\r\nWWW-Authenticate: Digest realm="r", nonce="n"\r\n\r\n')
    assert b"CSeq: 2\r\n" in (sent := c.data_to_send())
    assert b"Authorization: Digest" in sent
    c.receive_data(b"RTSP/1.0 200 OK\r\nCSeq: 2\r\nSession: s;timeout=5\r\nPublic: OPTIONS, GET_PARAMETER\r\n\r\n")
    assert c.responses.pop(first).status == 200
    assert (c.session, c.session_timeout) == ("s", 10.0)
    assert "GET_PARAMETER" in c.public
    second = c.request("PLAY", "rtsp://h/")
    assert b"Session: s\r\n" in c.data_to_send()
    c.receive_data(b"RTSP/1.0 401 No\r\nCSeq: 3\r\nWWW-Authenticate: Digest realm=r, nonce=m\r\n\r\n")
    assert c.responses.pop(second).status == 401
    c.receive_data(b"OPTIONS rtsp://h/ RTSP/1.0\r\nCSeq: 77\r\n\r\n")
    assert c.data_to_send() == b"RTSP/1.0 200 OK\r\nCSeq: 77\r\n\r\n"


def test_what_is_no_header_is_not_sent() -> None:
    a = Authentication("u\r\nX-Injected: 1", "p", lambda: "c")
    assert a.challenged(['Digest realm="r", nonce="n"'])
    with pytest.raises(ProtocolError):
        a.header("GET", "/")


def test_a_challenge_without_end_is_read_in_no_time() -> None:
    assert parse_challenge("Digest " + "a" * 1_000_000) == {"scheme": "digest"}  # an hour, were each letter a beginning


def test_a_flood_ends_the_source() -> None:
    assert len(Splitter().feed(b"$\0\0\0" * MAX_MESSAGES)) == MAX_MESSAGES
    with pytest.raises(LimitExceeded):
        Splitter().feed(b"$\0\0\0" * (MAX_MESSAGES + 2))
    with pytest.raises(ProtocolError):
        Splitter().feed(b"\r\n" * MAX_GARBAGE)
    c = ClientConnection("", "", lambda: "c")
    c.request("DESCRIBE", "rtsp://h/")
    media = b"$\0\xff\xff" + bytes(0xFFFF)
    for _ in range(MAX_FRAME_BYTES // 0xFFFF):
        c.receive_data(media)
    with pytest.raises(LimitExceeded):
        c.receive_data(media)
    assert sum(len(frame.data) for frame in c.take_frames()) <= MAX_FRAME_BYTES + 0xFFFF
    for _ in range(200):  # taken, they may be as many as come
        c.receive_data(media)
        c.take_frames()


def test_signs_of_life_may_stay_unanswered() -> None:
    c = ClientConnection("", "", lambda: "c")
    for _ in range(MAX_AHEAD * 2):
        c.forget()
        c.request("OPTIONS", "rtsp://h/")


def test_answers_that_never_come_are_bounded() -> None:
    c = ClientConnection("", "", lambda: "c")
    for _ in range(MAX_AHEAD):
        c.request("OPTIONS", "rtsp://h/")
    with pytest.raises(ProtocolError):
        c.request("OPTIONS", "rtsp://h/")


HIKVISION = """v=0
o=- 1 1 IN IP4 192.0.2.1
s=Media Presentation
b=AS:5100
a=control:rtsp://192.0.2.1/Streaming/
m=video 0 RTP/AVP 96
b=AS:5000
a=recvonly
a=control:rtsp://192.0.2.1/Streaming/trackID=1
a=rtpmap:96 H265/90000
a=fmtp:96 sprop-sps=QgEBAWAAAAMAsAAAAwAAAwB7oAPAgBDlja5JMvwCAAADAAIAAAMAZUI=; sprop-pps=RAHA8vA8kA==
m=audio 0 RTP/AVP 8
a=control:trackID=2
a=rtpmap:8 PCMA/8000
m=application 0 RTP/AVP 107
a=control:trackID=3
a=rtpmap:107 vnd.onvif.metadata/90000
"""
GSTREAMER = """v=0
s=x
a=control:*
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z2QADazZQUH7ARAAAAMAEAAAAwPA8UKZYA==,aOvjyyLA
a=control:stream=0
m=audio 0 RTP/AVP 97
a=rtpmap:97 MPEG4-GENERIC/48000/2
a=fmtp:97 streamtype=5;mode=AAC-hbr;config=1190;sizelength=13;indexlength=3;indexdeltalength=3
a=control:/abs/track
"""


def test_descriptions() -> None:
    url, streams = parse_description(HIKVISION, "rtsp://192.0.2.1/Streaming/Channels/101")
    assert url == "rtsp://192.0.2.1/Streaming/"
    chosen, unknown = choose(streams, ALL)
    assert [(s.codec, s.clock_rate, s.url) for s in chosen] == [
        (Codec.HEVC, 90_000, "rtsp://192.0.2.1/Streaming/trackID=1"),
        (Codec.PCM_ALAW, 8000, "rtsp://192.0.2.1/Streaming/trackID=2"),
    ]
    assert unknown == []
    assert chosen[0].record() is None  # no VPS: the stream brings it
    url, streams = parse_description(GSTREAMER, "rtsp://h:8554/a")
    assert [s.url for s in streams] == ["rtsp://h:8554/a/stream=0", "rtsp://h:8554/abs/track"]
    record = streams[0].record()
    assert record is not None
    assert record[1] == 0x64
    assert streams[1].record() == bytes.fromhex("1190")
    chosen, _ = choose(streams, frozenset({Kind.AUDIO}))
    assert [s.codec for s in chosen] == [Codec.AAC]


@pytest.mark.parametrize(
    ("rtpmap", "codec"),
    [
        ("G726-32/8000", None),
        ("PCMA/16000", None),
        ("PCMU/8000/2", None),
        ("L16/44100", None),
        ("opus/48000/2", Codec.OPUS),
        ("VP8/90000", Codec.VP8),
    ],
)
def test_what_can_be_carried(rtpmap: str, codec: Codec | None) -> None:
    _, (stream,) = parse_description(f"v=0\nm=audio 0 RTP/AVP 99\na=rtpmap:99 {rtpmap}\n", "rtsp://h/a")
    assert stream.codec is codec
    if codec is None:
        with pytest.raises(UnsupportedMedia, match=rtpmap.split("/")[0].lower()):
            choose([stream], ALL)


@pytest.mark.parametrize(
    ("config", "record"),
    [
        ("400023203fc0", "1190"),  # 48 kHz stereo LC, as FFmpeg writes it
        ("40002320", "1190"),  # as some cameras do: nothing behind it
        ("40005623101fe0", "2b118800"),  # HE-AAC, its SBR told: 24 and 48 kHz
        ("ffffffff", None),
        ("40", None),
        ("", None),
        ("no hex", None),
    ],
)
def test_latm_configuration(config: str, record: str | None) -> None:
    text = f"v=0\nm=audio 0 RTP/AVP 97\na=rtpmap:97 MP4A-LATM/90000\na=fmtp:97 cpresent=0; config={config}\n"
    _, (stream,) = parse_description(text, "rtsp://h/a")
    found = stream.record()
    assert found == (None if record is None else bytes.fromhex(record))


@given(st.text(max_size=600))
def test_any_text_is_no_more_than_a_peers_fault(text: str) -> None:
    try:
        for stream in parse_description("m=video 0 RTP/AVP 96\n" + text, "rtsp://h/").streams:
            stream.record()
    except PeerError:
        pass


@pytest.mark.parametrize(
    "line", ["a=control:rtsp://[x", "a=control://[", "a=rtpmap:96 H264/" + "9" * 5000, "a=fmtp:96 sizelength=" + "9" * 5000]
)
def test_lines_that_python_chokes_on(line: str) -> None:
    parse_description(f"m=video 0 RTP/AVP 96\n{line}\n", "rtsp://[")


def test_too_many_streams() -> None:
    with pytest.raises(LimitExceeded):
        parse_description("m=video 0 RTP/AVP 96\n" * 99, "rtsp://h/")
