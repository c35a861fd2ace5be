"""Offers as they are sent: recorded ones whole, broken ones refused, big ones bounded."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from medianode.errors import InvalidRequest, LimitExceeded, PeerError
from medianode.protocols.sdp import parse
from medianode.protocols.sdp.negotiate import plan_whep, plan_whip
from medianode.protocols.sdp.parse import Offer, parse_offer
from medianode.protocols.sdp.plan import MID, PLAYOUT_DELAY, RID, TRANSPORT_CC

VECTORS = Path(__file__).parents[3] / "vectors" / "sdp"
NAMES = sorted(path.stem for path in VECTORS.glob("*.sdp"))
PRINT = ":".join(["AB"] * 32)
HEAD = f"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:{'p' * 22}\r\na=fingerprint:sha-256 {PRINT}\r\n"
VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=rtpmap:96 VP8/90000\r\na=recvonly\r\n"


def text(name: str) -> str:
    return (VECTORS / f"{name}.sdp").read_bytes().decode()


def offer(name: str) -> Offer:
    return parse_offer(text(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_recorded_offer_has_what_a_transport_needs(name: str) -> None:
    found = offer(name)
    assert 4 <= len(found.remote.credentials.ufrag) <= 8 or name == "gstreamer-whipsink"
    assert len(found.remote.credentials.pwd) >= 22
    assert found.remote.fingerprints[0].algorithm == "sha-256"
    assert found.remote.setup == ("passive" if name == "ffmpeg" else "actpass")
    assert {s.media for s in found.sections if s.is_media} == {"audio", "video"}
    assert found.outside == ()
    for section in found.sections:
        if section.is_media:
            assert section.rtcp_mux
            assert all(kind.name for kind in section.types.values())


def test_there_are_vectors_of_every_kind_of_client() -> None:
    assert {name.partition("-")[0] for name in NAMES} == {
        *("aiortc", "chromium", "ffmpeg", "firefox", "gstreamer", "obs", "reactor", "safari", "wrtc")
    }


def test_chromium_recvonly() -> None:
    video, audio = offer("chromium-recvonly").sections
    assert (video.mid, video.direction, audio.mid, audio.direction) == ("0", "recvonly", "1", "recvonly")
    assert video.types[108].fmtp == "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
    assert video.types[108].feedback == ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"]
    assert video.types[109].parameters == {"apt": "108"}
    assert (audio.types[111].clock_rate, audio.types[111].channels) == (48_000, 2)
    assert video.extensions[PLAYOUT_DELAY].id == 5
    assert video.extensions[TRANSPORT_CC].id == 4
    assert video.candidates == 4


def test_chromium_simulcast_and_its_datachannel() -> None:
    assert offer("chromium-simulcast").sections[0].rids == ("q", "h", "f")
    found = offer("chromium-datachannel")
    assert [s.media for s in found.sections] == ["video", "audio", "application"]
    assert found.sections[2].formats == ("webrtc-datachannel",)
    assert not found.sections[2].is_media


def test_firefox_session_level_lines_directed_extensions_and_its_order_of_rids() -> None:
    video, audio = offer("firefox-simulcast").sections
    assert video.rids == ("q", "h", "f"), "the order of a=simulcast, not that of the rid lines"
    assert video.extensions[RID] == (8, "sendonly")
    assert video.extensions[MID] == (3, "")
    assert video.types[126].parameters["packetization-mode"] == "1", "fmtp stands before rtpmap"
    assert audio.types[9].channels == 1
    assert offer("firefox-recvonly").sections[1].is_media, "port 0, but bundle-only"


def test_obs_has_its_transport_at_session_level_and_two_groups() -> None:
    found = offer("obs")
    assert found.remote.credentials == ("nxcM", "abcdefghijklmnopqrstuv")
    assert found.bundle == ("0", "1")


def test_ffmpeg_names_its_rtx_ssrc_only_in_the_group() -> None:
    video = offer("ffmpeg").sections[1]
    assert video.ssrcs == [501586980]
    assert video.groups == [("FID", (501586980, 501586981))]


@pytest.mark.parametrize("name", NAMES)
def test_line_ends_do_not_matter(name: str) -> None:
    whole = offer(name)
    assert parse_offer(text(name).replace("\r\n", "\n")) == whole
    assert parse_offer(text(name).replace("\r\n", "\r\n\r\n").rstrip()) == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_attributes_in_a_section_does_not_matter(name: str) -> None:
    head, *sections = text(name).split("\r\nm=")
    turned = []
    for section in sections:
        first, *lines = section.strip().split("\r\n")
        kept = [line for line in lines if line.startswith(("a=rid", "a=rtcp-fb", "a=ssrc", "a=fingerprint"))]  # order means something
        others = [line for line in lines if line not in kept]
        turned.append("\r\n".join([first, *reversed(others), *kept]))
    assert parse_offer("\r\nm=".join([head, *turned])) == offer(name)


# what is missing


def test_without_bundle_the_video_section_is_what_one_transport_serves() -> None:
    found = parse_offer(HEAD + VIDEO.replace("video", "audio").replace("mid:0", "mid:a").replace("VP8/90000", "opus/48000/2") + VIDEO)
    assert found.bundle == ()
    assert found.mids == {"0"}
    assert [s.mid for s in found.outside] == ["a"]


def test_without_mid_setup_direction_and_msid() -> None:
    found = parse_offer(HEAD + "m=video 9 UDP/TLS/RTP/SAVPF 96\na=rtpmap:96 VP8/90000")
    (section,) = found.sections
    assert not section.has_mid
    assert found.mids == {section.mid}
    assert section.direction == "sendrecv"
    assert found.remote.setup == "actpass"


def test_static_payload_types_need_no_rtpmap() -> None:
    kinds = parse_offer(HEAD + "m=audio 9 RTP/SAVPF 0 8").sections[0].types
    assert [(k.name, k.clock_rate) for k in kinds.values()] == [("pcmu", 8000), ("pcma", 8000)]


def test_a_rejected_section_is_not_served() -> None:
    found = parse_offer(HEAD + "a=group:BUNDLE 0 1\n" + VIDEO + "m=audio 0 UDP/TLS/RTP/SAVPF 0\na=mid:1\n")
    assert found.mids == {"0"}
    with pytest.raises(InvalidRequest, match="not rejected"):
        parse_offer(HEAD + VIDEO.replace("video 9", "video 0"))
    with pytest.raises(InvalidRequest, match="audio or video"):
        parse_offer(HEAD + "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:0\n")


def test_of_several_groups_the_first_with_media_counts() -> None:
    found = parse_offer(HEAD + "a=group:LS 0\na=group:BUNDLE x\na=group:BUNDLE 0\n" + VIDEO)
    assert found.bundle == ("0",)


def test_the_group_s_first_section_has_the_transport() -> None:
    first = VIDEO + f"a=ice-ufrag:sect\na=ice-pwd:{'q' * 30}\na=setup:active\na=fingerprint:sha-512 {':'.join(['01'] * 64)}\n"
    second = VIDEO.replace("mid:0", "mid:1") + f"a=ice-ufrag:other\na=ice-pwd:{'r' * 30}\n"
    remote = parse_offer(HEAD + "a=group:BUNDLE 0 1\n" + first + second).remote
    assert remote.credentials == ("sect", "q" * 30)
    assert remote.setup == "active"
    assert [f.algorithm for f in remote.fingerprints] == ["sha-512"]


# what cannot be


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("", "begins with v=0"),
        ("hello", "begins with v=0"),
        ('{"type":"offer"}', "begins with v=0"),
        (HEAD, "at least one m-section"),
        (HEAD + "m=video", "media, port, protocol"),
        (HEAD + "m=video 9 UDP/TLS/RTP/SAVPF", "media, port, protocol"),
        (HEAD + "m=video 70000 UDP/TLS/RTP/SAVPF 96", "number up to 65535"),
        (HEAD + "m=video 9 UDP/TLS/RTP/SAVPF 128", "number up to 127"),
        (HEAD + "m=video 9 UDP/TLS/RTP/SAVPF x", "number up to 127"),
        (HEAD + VIDEO + "a=rtpmap:x VP8/90000", "payload type"),
        (HEAD + VIDEO + "a=rtpmap:96 VP8", "a=rtpmap"),
        (HEAD + VIDEO + "a=rtpmap:96 VP8/²", "a=rtpmap"),
        (HEAD + VIDEO + "a=mid:two words", "a=mid"),
        (HEAD + VIDEO + VIDEO, "twice"),
        (HEAD + VIDEO + "a=ssrc:99999999999 cname:x", "a=ssrc"),
        (HEAD + VIDEO + "a=ssrc", "a=ssrc"),
        (HEAD + VIDEO + "a=ssrc-group:FID 1 x", "a=ssrc-group"),
        (HEAD + VIDEO + "a=extmap:x uri", "a=extmap"),
        (HEAD + VIDEO + "a=rid:a;b send", "a=rid"),
        (HEAD + VIDEO + "a=ice-ufrag:abc", "4 to 256"),
        (HEAD + VIDEO + "a=ice-ufrag:ab:cd", "4 to 256"),
        (HEAD + VIDEO + "a=ice-pwd:short-of-22", "22 to 256"),
        (HEAD + VIDEO + "a=setup:holdconn", "actpass, active or passive"),
        (HEAD + VIDEO + "a=fingerprint:sha-256 AB:CD", "32 hexadecimal pairs"),
        (HEAD + VIDEO + "a=\x00", "control characters"),
        (HEAD.replace("a=ice-pwd", "a=no") + VIDEO, "a=ice-ufrag and a=ice-pwd"),
        (HEAD.replace("sha-256", "sha-1") + VIDEO, "a=fingerprint by one of"),
        (HEAD.replace("sha-256", "md5") + VIDEO, "a=fingerprint by one of"),
    ],
)
def test_what_cannot_be_is_said(bad: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_offer(bad)
    assert "p" * 22 not in caught.value.message


@pytest.mark.parametrize(
    "bomb",
    [
        "v=0\n" + "a=x\n" * 40_000,
        HEAD + "a=x\n" * parse.MAX_LINES,
        HEAD + "a=" + "x" * parse.MAX_LINE,
        HEAD + "".join(VIDEO.replace("mid:0", f"mid:{n}") for n in range(parse.MAX_SECTIONS + 1)),
        HEAD + "m=video 9 UDP/TLS/RTP/SAVPF " + "96 " * (parse.MAX_FORMATS + 1),
        HEAD + VIDEO + "".join(f"a=ssrc:{n} cname:x\n" for n in range(parse.MAX_SSRCS + 1)),
        HEAD + VIDEO + "a=ssrc-group:SIM " + " ".join(map(str, range(parse.MAX_SSRCS + 1))),
        HEAD + VIDEO + "a=ssrc-group:FID 1 2\n" * (parse.MAX_SSRCS + 1),
        HEAD + VIDEO + "".join(f"a=rid:r{n} send\n" for n in range(parse.MAX_RIDS + 1)),
        HEAD + VIDEO + "".join(f"a=extmap:1 urn:{n}\n" for n in range(parse.MAX_EXTENSIONS + 1)),
        "ä" * 70_000,
    ],
)
def test_bombs_are_over_a_limit(bomb: str) -> None:
    with pytest.raises(LimitExceeded):
        parse_offer(bomb, 131_072)


def test_repeated_feedback_and_groups_stay_small() -> None:
    found = parse_offer(HEAD + "a=group:BUNDLE 0\n" * 300 + VIDEO + "".join(f"a=rtcp-fb:* x{n}\n" for n in range(500)))
    assert len(found.sections[0].types[96].feedback) == parse.MAX_FEEDBACK
    assert found.bundle == ("0",)


def test_garbage_gives_only_peer_errors() -> None:
    rng = random.Random(8829)
    for _ in range(400):
        lines = text(rng.choice(NAMES)).split("\r\n")
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(lines))
            match rng.randrange(4):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(at, rng.choice(lines))
                case 2:
                    cut = rng.randrange(len(lines[at]) + 1)
                    lines[at] = lines[at][:cut] + rng.choice([" ", ":", ";", "=", "/", "", "-1", "²", "\ud800"]) + lines[at][cut + 1 :]
                case _:
                    other = rng.randrange(len(lines))
                    lines[at], lines[other] = lines[other], lines[at]
            if not lines:
                lines = ["v=0"]
        for plan in (lambda o: plan_whep(o, (), ()), plan_whip):
            try:
                plan(parse_offer("\n".join(lines)))
            except PeerError:
                continue


def test_memory_and_the_number_of_steps_stay_under_the_bound() -> None:
    """The costliest offers that still fit: what is kept is a small multiple of what came in."""
    formats = " ".join(map(str, range(128)))
    wide = HEAD + f"m=video 9 X {formats}\na=mid:0\n"
    costly = [
        wide + "a=rtcp-fb:* x\n" * 4000,
        wide + "".join(f"a=fmtp:{n % 128} {'a=b;' * 7}\n" for n in range(3000)),
        HEAD + "".join(f"m=video 9 X {formats}\na=mid:{n}\n" for n in range(parse.MAX_SECTIONS)),
        HEAD + VIDEO + "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\n" * 2500,
    ]
    for text in costly:
        tracemalloc.start()
        try:
            parse_offer(text)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16 * parse.MAX_BYTES
