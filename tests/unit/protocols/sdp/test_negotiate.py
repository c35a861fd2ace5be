"""Which codecs and payload types come of the recorded offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from medianode.errors import InvalidRequest, UnsupportedMedia
from medianode.media.track import Codec, Kind
from medianode.protocols.sdp.negotiate import offered_codecs, plan_whep, plan_whip
from medianode.protocols.sdp.parse import Offer, parse_offer
from medianode.protocols.sdp.plan import Extensions

VECTORS = Path(__file__).parents[3] / "vectors" / "sdp"
H264, OPUS = (Codec.H264,), (Codec.OPUS,)
PRINT = ":".join(["AB"] * 32)
HEAD = f"v=0\na=ice-ufrag:abcd\na=ice-pwd:{'p' * 22}\na=fingerprint:sha-256 {PRINT}\n"


def offer(name: str) -> Offer:
    return parse_offer((VECTORS / f"{name}.sdp").read_bytes().decode())


# toward viewers


@pytest.mark.parametrize(
    ("name", "video", "audio", "delay"),
    [
        ("chromium-recvonly", (116, 117), 111, 5),
        ("chromium-datachannel", (116, 117), 111, 5),
        ("firefox-recvonly", (126, 127), 109, 6),
        ("safari-recvonly", (96, 97), 111, 12),
        ("aiortc-recvonly", (99, 100), 96, 0),
    ],
)
def test_h264_and_opus_in_the_offer_s_order(name: str, video: tuple[int, int], audio: int, delay: int) -> None:
    sends = {send.kind: send for send in plan_whep(offer(name), H264, OPUS)}
    picture, sound = sends[Kind.VIDEO], sends[Kind.AUDIO]
    assert (picture.payload_type, picture.rtx, picture.playout_delay) == (*video, delay)
    assert "packetization-mode=1" in picture.fmtp
    assert (sound.payload_type, sound.clock_rate, sound.channels, sound.rtx) == (audio, 48_000, 2, None)


def test_sections_keep_the_offer_s_order() -> None:
    assert [send.kind for send in plan_whep(offer("safari-recvonly"), H264, OPUS)] == [Kind.AUDIO, Kind.VIDEO]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [(0x64, "4d001f"), (0x4D, "4d001f"), (0x42, "42001f"), (0xF4, "f4001f"), (None, "4d001f")],
)
def test_the_best_payload_type_for_a_profile(profile: int | None, expected: str) -> None:
    sends = plan_whep(offer("chromium-recvonly"), H264, OPUS, {} if profile is None else {Codec.H264: profile})
    assert f"packetization-mode=1;profile-level-id={expected}" in sends[0].fmtp


def test_mode_0_is_the_last_resort() -> None:
    lines = "m=video 9 X 96 97\na=mid:0\na=rtpmap:96 H264/90000\na=rtpmap:97 H264/90000\n"
    only = parse_offer(HEAD + lines)
    assert plan_whep(only, H264, ())[0].payload_type == 96
    better = parse_offer(HEAD + lines + "a=fmtp:97 packetization-mode=1;profile-level-id=42e01f\na=fmtp:96 profile-level-id=640028\n")
    assert plan_whep(better, H264, ())[0].payload_type == 97
    with pytest.raises(UnsupportedMedia):
        plan_whep(parse_offer(HEAD + lines + "a=fmtp:97 packetization-mode=2\na=fmtp:96 packetization-mode=2\n"), H264, ())


def test_our_preference_of_codecs_decides() -> None:
    found = offer("chromium-recvonly")
    assert plan_whep(found, (Codec.HEVC, Codec.VP9, Codec.H264), OPUS)[0].codec is Codec.VP9
    assert plan_whep(found, (Codec.VP9,), OPUS)[0].fmtp == "profile-id=0"
    assert plan_whep(found, (Codec.VP9,), OPUS, {Codec.VP9: 2})[0].fmtp == "profile-id=2"
    assert plan_whep(offer("safari-recvonly"), (Codec.HEVC, Codec.H264), ())[0].payload_type == 104


def test_what_a_viewer_can_receive() -> None:
    chromium = offered_codecs(offer("chromium-recvonly"))
    assert set(chromium[Kind.VIDEO]) == {Codec.VP8, Codec.VP9, Codec.H264, Codec.AV1}
    assert chromium[Kind.AUDIO] == (Codec.OPUS, Codec.PCM_MULAW, Codec.PCM_ALAW)
    assert Codec.HEVC in offered_codecs(offer("safari-recvonly"))[Kind.VIDEO]
    assert offered_codecs(offer("chromium-send-all")) == {}


def test_a_room_without_sound_or_without_pictures() -> None:
    assert [s.kind for s in plan_whep(offer("chromium-recvonly"), H264, ())] == [Kind.VIDEO]
    assert [s.kind for s in plan_whep(offer("chromium-recvonly"), (), OPUS)] == [Kind.AUDIO]


def test_no_shared_codec_says_who_has_what() -> None:
    with pytest.raises(UnsupportedMedia, match="video: offered VP8, VP9, AV1; this room has H264") as caught:
        plan_whep(offer("reactor-recvonly"), H264, OPUS)
    assert caught.value.code == "no-shared-codec"
    with pytest.raises(UnsupportedMedia, match="this room has aac"):
        plan_whep(offer("reactor-recvonly"), (), (Codec.AAC,))
    with pytest.raises(UnsupportedMedia, match="a=recvonly"):
        plan_whep(offer("obs"), H264, OPUS)


def test_pictures_without_a_shared_audio_codec_are_shown_yet() -> None:
    assert [s.kind for s in plan_whep(offer("chromium-recvonly"), H264, (Codec.AAC,))] == [Kind.VIDEO]


def test_one_section_of_a_kind_is_served() -> None:
    section = "m=video 9 X 96\na=mid:{}\na=rtpmap:96 VP8/90000\na=recvonly\n"
    found = parse_offer(HEAD + "a=group:BUNDLE 0 1\n" + section.format(0) + section.format(1))
    assert [send.mid for send in plan_whep(found, (Codec.VP8,), ())] == ["0"]


# from publishers


def test_chromium_simulcast() -> None:
    video, audio = plan_whip(offer("chromium-simulcast"))
    assert video.rids == ("q", "h", "f")
    assert video.extensions == Extensions(mid=9, rid=10, repaired_rid=11, transport_cc=4)
    assert [codec.codec for codec in video.codecs.values()][:2] == [Codec.VP8, Codec.H264]
    assert video.rtx[97] == 96
    assert video.ssrcs == ()
    assert audio.extensions == Extensions(mid=9, transport_cc=4)
    assert audio.codecs[111].fmtp == {"minptime": "10", "useinbandfec": "1"}


def test_ffmpeg_and_its_rtx() -> None:
    audio, video = plan_whip(offer("ffmpeg"))
    assert (audio.ssrcs, video.ssrcs, video.rtx, video.rtx_ssrcs) == ((501586979,), (501586980,), {105: 106}, {501586981: 501586980})
    assert video.extensions == Extensions()


def test_firefox_names_the_ssrcs_of_its_layers() -> None:
    video, _ = plan_whip(offer("firefox-simulcast"))
    assert video.rids == ("q", "h", "f")
    assert video.ssrcs == (1531004751, 1531004752, 1531004753)
    assert video.rtx_ssrcs == {2531004751: 1531004751, 2531004752: 1531004752, 2531004753: 1531004753}
    assert (video.extensions.rid, video.extensions.repaired_rid) == (8, 9)


@pytest.mark.parametrize("name", ["obs", "gstreamer-whipsink", "wrtc-sendonly", "aiortc-sendonly", "reactor-sendrecv", "chromium-send-av1"])
def test_other_publishers_have_both_kinds(name: str) -> None:
    assert {media.kind for media in plan_whip(offer(name))} == {Kind.VIDEO, Kind.AUDIO}


def test_capital_opus_is_opus() -> None:
    assert plan_whip(offer("gstreamer-whipsink"))[1].codecs[97].codec is Codec.OPUS


def test_rids_without_their_extension_are_no_layers() -> None:
    found = parse_offer(HEAD + "m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\na=rid:a send\na=rid:b send\na=simulcast:send a;b\n")
    assert plan_whip(found)[0].rids == ()


def test_a_direction_that_is_not_ours_is_not_agreed() -> None:
    extension = "a=extmap:3/recvonly urn:ietf:params:rtp-hdrext:sdes:mid\n"
    found = parse_offer(HEAD + "m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\na=sendonly\n" + extension)
    assert plan_whip(found)[0].extensions == Extensions()


@pytest.mark.parametrize(
    ("lines", "error", "says"),
    [
        ("m=video 9 X 96\na=mid:0\na=rtpmap:96 H263/90000\n", UnsupportedMedia, "video: expected one of H264, .*; the offer has h263"),
        ("m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/8000\n", UnsupportedMedia, "expected one of"),
        ("m=audio 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\n", UnsupportedMedia, "audio: expected one of"),
        ("m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\na=recvonly\n", UnsupportedMedia, "a=sendonly"),
        ("m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\na=inactive\n", UnsupportedMedia, "a=sendonly"),
        ("m=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\nm=audio 9 X 0\na=mid:1\n", InvalidRequest, "BUNDLE"),
        (
            "a=group:BUNDLE 0 1\nm=video 9 X 96\na=mid:0\na=rtpmap:96 VP8/90000\nm=video 9 X 96\na=mid:1\na=rtpmap:96 VP8/90000\n",
            InvalidRequest,
            "several video sections",
        ),
    ],
)
def test_no_half_of_a_publication(lines: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        plan_whip(parse_offer(HEAD + lines))


def test_inactive_and_datachannel_sections_do_not_hinder() -> None:
    lines = "a=group:BUNDLE 0 1 2\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:0\n"
    lines += "m=video 9 X 96\na=mid:1\na=rtpmap:96 H263/90000\na=inactive\nm=audio 9 X 0\na=mid:2\na=sendonly\n"
    assert [media.mid for media in plan_whip(parse_offer(HEAD + lines))] == ["2"]
