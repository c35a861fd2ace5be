"""Answers: the lines that browsers need (and the ones that break them), read back by our own parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medianode.media.track import Codec, Kind
from medianode.protocols.sdp.answer import answer_whep, answer_whip, setup_of
from medianode.protocols.sdp.negotiate import NAMES, plan_whep, plan_whip
from medianode.protocols.sdp.parse import Offer, parse_offer
from medianode.protocols.sdp.plan import Candidate, Credentials, Fingerprint, LocalTransport

VECTORS = Path(__file__).parents[3] / "vectors" / "sdp"
LOCAL = LocalTransport(
    Credentials("ourufrag", "o" * 24),
    Fingerprint("sha-256", ":".join(["CD"] * 32)),
    (
        Candidate("2001:db8::1", 8189, "udp", 2130706431, "1"),
        Candidate("192.0.2.1", 8189, "tcp", 1671430143, "3"),
        Candidate("192.0.2.1", 8189, "udp", 2130706175, "2"),
    ),
)
VIEWERS = ["chromium-recvonly", "chromium-datachannel", "firefox-recvonly", "safari-recvonly", "aiortc-recvonly", "reactor-recvonly"]
PUBLISHERS = ["chromium-send-all", "chromium-simulcast", "firefox-simulcast", "obs", "ffmpeg", "gstreamer-whipsink", "wrtc-sendonly"]
VIDEO = (Codec.H264, Codec.VP8)


def offer(name: str) -> Offer:
    return parse_offer((VECTORS / f"{name}.sdp").read_bytes().decode())


def whep(name: str, *, rtx: bool = False, video: tuple[Codec, ...] = VIDEO) -> str:
    found = offer(name)
    sends = plan_whep(found, video, (Codec.OPUS,))
    ssrcs = {send.mid: (1000 + i, 2000 + i if rtx and send.rtx else None) for i, send in enumerate(sends)}
    return answer_whep(found, LOCAL, sends, ssrcs, "room")


def whip(name: str) -> str:
    found = offer(name)
    return answer_whip(found, LOCAL, plan_whip(found))


def sections(text: str) -> tuple[list[str], list[list[str]]]:
    head, *rest = re.split(r"(?m)^(?=m=)", text.replace("\r\n", "\n"))
    return head.split("\n"), [part.strip().split("\n") for part in rest]


def test_a_whole_answer_to_chromium() -> None:
    assert whep("chromium-recvonly", rtx=True).replace("\r\n", "\n") == (
        "v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nt=0 0\na=ice-lite\na=ice-options:ice2\na=group:BUNDLE 0 1\na=msid-semantic: WMS *\n"
        "m=video 9 UDP/TLS/RTP/SAVPF 116 117\nc=IN IP4 0.0.0.0\na=mid:0\n"
        f"a=ice-ufrag:ourufrag\na=ice-pwd:{'o' * 24}\na=fingerprint:sha-256 {LOCAL.fingerprint.value}\na=setup:passive\na=rtcp-mux\n"
        "a=candidate:2 1 udp 2130706175 192.0.2.1 8189 typ host\n"
        "a=candidate:1 1 udp 2130706431 2001:db8::1 8189 typ host\n"
        "a=candidate:3 1 tcp 1671430143 192.0.2.1 8189 typ host tcptype passive\na=end-of-candidates\n"
        "a=sendonly\na=rtpmap:116 H264/90000\n"
        "a=fmtp:116 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f\n"
        "a=rtcp-fb:116 nack\na=rtcp-fb:116 nack pli\na=rtcp-fb:116 ccm fir\na=rtpmap:117 rtx/90000\na=fmtp:117 apt=116\n"
        "a=extmap:5 http://www.webrtc.org/experiments/rtp-hdrext/playout-delay\n"
        "a=msid:room video\na=ssrc-group:FID 1000 2000\na=ssrc:1000 cname:room\na=ssrc:2000 cname:room\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\nc=IN IP4 0.0.0.0\na=mid:1\n"
        f"a=ice-ufrag:ourufrag\na=ice-pwd:{'o' * 24}\na=fingerprint:sha-256 {LOCAL.fingerprint.value}\na=setup:passive\na=rtcp-mux\n"
        "a=sendonly\na=rtpmap:111 opus/48000/2\na=fmtp:111 minptime=10;useinbandfec=1\na=rtcp-fb:111 nack\n"
        "a=msid:room audio\na=ssrc:1001 cname:room\n"
    )


@pytest.mark.parametrize("name", VIEWERS)
def test_toward_viewers(name: str) -> None:
    text = whep(name)
    head, found = sections(text)
    assert "a=ice-lite" in head
    assert len(found) == len(offer(name).sections)
    for section, asked in zip(found, offer(name).sections, strict=True):
        assert f"a=mid:{asked.mid}" in section
        if asked.media == "application":
            assert section[0] == "m=application 0 UDP/DTLS/SCTP webrtc-datachannel"
            assert asked.mid not in next(line for line in head if "BUNDLE" in line).split()[1:]
            continue
        assert "a=sendonly" in section
        assert "a=rtcp-mux" in section
        assert "a=setup:passive" in section
        assert any(line.startswith("a=rtcp-fb:") and line.endswith(" nack") for line in section)
        assert len([line for line in section if line.startswith("a=ssrc:")]) == 1
        assert not any("rtx" in line or "ssrc-group" in line for line in section)
    assert "transport-wide-cc" not in text
    assert "transport-cc" not in text
    assert "abs-send-time" not in text
    assert "sdes:mid" not in text, "with it and without its bytes Chrome shows nothing"
    assert text.count("typ host") == 3


@pytest.mark.parametrize("name", [*VIEWERS, *PUBLISHERS])
def test_read_back_by_our_own_parser(name: str) -> None:
    answer = parse_offer(whep(name) if name in VIEWERS else whip(name))
    asked = offer(name)
    assert answer.ice_lite
    assert answer.remote.credentials == LOCAL.credentials
    assert answer.remote.fingerprints == (LOCAL.fingerprint,)
    assert set(answer.bundle) == {s.mid for s in asked.sections if s.is_media}
    for section in answer.sections:
        theirs = asked.section(section.mid)
        assert set(section.types) <= set(theirs.types)
        for number, kind in section.types.items():
            assert (kind.name, kind.clock_rate, kind.channels) == (
                (theirs.types[number].name, theirs.types[number].clock_rate, theirs.types[number].channels)
            )
            assert kind.fmtp.startswith(theirs.types[number].fmtp)
        for uri, extension in section.extensions.items():
            assert theirs.extensions[uri].id == extension.id


@pytest.mark.parametrize("name", PUBLISHERS)
def test_toward_publishers(name: str) -> None:
    _, found = sections(whip(name))
    for section, asked in zip(found, offer(name).sections, strict=True):
        assert "a=recvonly" in section
        assert f"a=setup:{'active' if name == 'ffmpeg' else 'passive'}" in section
        numbers = [int(word) for word in section[0].split()[3:]]
        order = [n for n in asked.types if n in numbers]
        assert numbers == order, "the offer's order"
        assert not any("abs-send-time" in line or "goog-remb" in line or "ulpfec" in line for line in section)


def test_transport_cc_on_both_where_offered() -> None:
    _, (video, audio) = sections(whip("chromium-send-all"))
    for section, number in ((video, 96), (audio, 111)):
        assert f"a=rtcp-fb:{number} transport-cc" in section
        assert f"a=rtcp-fb:{number} nack" in section
        assert "a=extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01" in section
    assert "transport-cc" not in whip("obs")
    assert "transport-cc" not in whip("gstreamer-whipsink"), "feedback without the extension would be of nothing"
    assert not re.search("nack\r\n", whip("gstreamer-whipsink")), "it offers only nack pli"


@pytest.mark.parametrize("name", ["chromium-simulcast", "firefox-simulcast"])
def test_simulcast(name: str) -> None:
    _, (video, audio) = sections(whip(name))
    assert [line for line in video if line.startswith(("a=rid", "a=simulcast"))] == [
        *("a=rid:q recv", "a=rid:h recv", "a=rid:f recv", "a=simulcast:recv q;h;f")
    ]
    assert sum("rtp-stream-id" in line for line in video) == 2
    assert not any("rid" in line for line in audio)


def test_directions_of_extensions_are_mirrored() -> None:
    _, (video, _) = sections(whip("firefox-simulcast"))
    assert "a=extmap:8/recvonly urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id" in video
    assert "a=extmap:3 urn:ietf:params:rtp-hdrext:sdes:mid" in video
    assert "a=extmap:6/sendonly http://www.webrtc.org/experiments/rtp-hdrext/playout-delay" in whep("firefox-recvonly")


def test_stereo_is_asked_for_where_the_publisher_has_it() -> None:
    assert "a=fmtp:97 sprop-stereo=1;sprop-maxcapturerate=48000;stereo=1" in whip("gstreamer-whipsink")
    assert "a=fmtp:111 minptime=10;maxaveragebitrate=96000;stereo=1;sprop-stereo=1;useinbandfec=1\r\n" in whip("obs")


def test_an_unused_section_is_inactive_and_not_rejected() -> None:
    """Chrome: `Failed to setup RTCP mux` where the first section of a max-bundle offer gets port 0."""
    head, (video, audio) = sections(whep("chromium-recvonly", video=()))
    assert "a=group:BUNDLE 0 1" in head
    assert video[0] == "m=video 9 UDP/TLS/RTP/SAVPF 96"
    assert "a=inactive" in video
    assert "a=rtpmap:96 vp8/90000" in video
    assert any("typ host" in line for line in video)
    assert not any(line.startswith("a=ssrc") for line in video)
    assert "a=sendonly" in audio


def test_without_bundle_there_is_none_in_the_answer_and_the_rest_is_rejected() -> None:
    text = (VECTORS / "aiortc-recvonly.sdp").read_bytes().decode().replace("a=group:BUNDLE 0 1\r\n", "")
    found = parse_offer(text)
    sends = plan_whep(found, VIDEO, (Codec.OPUS,))
    assert [send.kind for send in sends] == [Kind.VIDEO]
    head, (video, audio) = sections(answer_whep(found, LOCAL, sends, {"0": (1, None)}, "c"))
    assert not any("BUNDLE" in line for line in head)
    assert "a=sendonly" in video
    assert audio[0].startswith("m=audio 0 ")


def test_without_mid_none_is_made_up() -> None:
    head = f"v=0\na=ice-ufrag:abcd\na=ice-pwd:{'p' * 22}\na=fingerprint:sha-256 {LOCAL.fingerprint.value}\n"
    found = parse_offer(head + "m=video 9 X 96\na=rtpmap:96 VP8/90000")
    sends = plan_whep(found, VIDEO, ())
    assert "a=mid" not in answer_whep(found, LOCAL, sends, {sends[0].mid: (1, None)}, "c")


@pytest.mark.parametrize(("offered", "ours"), [("actpass", "passive"), ("active", "passive"), ("passive", "active")])
def test_setup(offered: str, ours: str) -> None:
    assert setup_of(offered) == ours


def test_every_codec_has_a_name() -> None:
    assert set(NAMES) >= {Codec.H264, Codec.HEVC, Codec.VP8, Codec.VP9, Codec.AV1, Codec.OPUS}
