"""A simulcast publisher in HLS: `main` is the picture, the smaller layers are listed beside it and play."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any


def simulcast(make_clip: Any) -> Any:
    """640x360 is the picture and layer f; q is 320x180."""
    big, small = make_clip(size="640x360"), make_clip(size="320x180")
    main, sound = big.video, next(t for t in big.tracks if not t.is_video)
    tracks = {"main": main, "sound": sound, "q": replace(small.video, id=2, layer="q"), "f": replace(main, id=4, layer="f")}
    packets = []
    for packet in big.packets:
        packets.append(packet)
        if packet.track is main:
            packets.append(packet._replace(track=tracks["f"]))
    packets += [p._replace(track=tracks["q"]) for p in small.packets if p.track.is_video]
    return type(big)(tuple(tracks.values()), sorted(packets, key=lambda p: p.received_at))


async def test_layers_are_variants_with_what_they_really_are(make_rig: Any, make_clip: Any, plays: Any) -> None:
    rig = await make_rig()
    clip = simulcast(make_clip)
    room, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    for meter in publication.meters.values():
        meter.bitrate = meter.nbytes
    async with rig.client.get("/hls/live/cam/index.m3u8") as response:
        listed = await response.text()
    rows = re.findall(r"BANDWIDTH=(\d+),AVERAGE-BANDWIDTH=(\d+).*?RESOLUTION=(\w+).*?\n(\w+)\.m3u8", listed)
    assert [(name, size) for _, _, size, name in rows] == [("main", "640x360"), ("layer2", "320x180")], "f is what main shows"
    sound = next(t for t in clip.tracks if not t.is_video)
    expected = publication.meters[2].nbytes + publication.meters[sound.id].nbytes
    assert (int(rows[1][0]), int(rows[1][1])) == (round(expected * 1.5), expected)
    main = room.tracks
    assert main == publication.tracks
    (window,) = [v.window for v in rig.service._live[room.project_id, room.name].variants.values()]
    assert window.started

    live = rig.service._live[room.project_id, room.name]
    live.use("layer2")
    rig.write(publication, clip.packets, 8.0)
    publication.kick = lambda error: None
    room.end(publication, "done", final=True)
    for name, size in (("main", 640), ("layer2", 320)):
        complaints, counts = await plays(rig.url(f"/hls/live/cam/{name}.m3u8"))
        assert (complaints, counts["video"] > 100, counts["audio"] > 100) == ("", True, True)
        assert live.variants[name].packager.tracks[0].width == size


async def test_no_layer_no_variant(make_rig: Any, make_clip: Any) -> None:
    rig = await make_rig()
    clip = make_clip()
    _, publication = rig.publish(clip)
    rig.write(publication, clip.packets)
    for name in ("layer2", "layer0", "layer", "layer2x", "layer-1", "layer99999"):
        async with rig.client.get(f"/hls/live/cam/{name}.m3u8") as response:
            assert response.status == 404, name
    async with rig.client.get("/hls/live/cam/index.m3u8") as response:
        assert "layer" not in await response.text()
