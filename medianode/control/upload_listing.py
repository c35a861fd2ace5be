"""What is put beside a recording's files in its bucket: an HLS playlist over them, and what is known of it as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from medianode import clock
from medianode.egress.playback.segments import cut
from medianode.media import parts
from medianode.protocols.hls import MARK
from medianode.protocols.hls_vod import VodFile, body, render
from medianode.store.recording_files import RecordingFile
from medianode.store.recordings import Recording

PLAYLIST, DESCRIPTION = "index.m3u8", "recording.json"


def playlist(files: Sequence[RecordingFile]) -> bytes:
    """VOD over the `files` that are there, by byte ranges. Each has its own init segment; at a gap, or a missing file, it breaks."""
    listed, before = [], None
    for file in files:
        segments = cut(parts.entries(file.parts), closed=True) if file.parts else []
        if not segments:
            continue
        missed = before is not None and (bool(file.gap) or file.sequence != before.sequence + 1 or file.tracks != before.tracks)
        listed.append(
            VodFile(
                body(file.name, segments),
                program_time=clock.iso(file.started_at),
                map_uri=file.name,
                map_bytes=file.init_bytes,
                discontinuity=missed,
            )
        )
        before = file
    return render(listed).replace(MARK, "").encode()


def description(recording: Recording, files: Sequence[RecordingFile], project: str) -> bytes:
    """`project`: its slug."""
    told = {
        "id": recording.id,
        "project": project,
        "room": recording.room,
        "identity": recording.identity,
        "title": recording.title,
        "labels": dict(recording.labels),
        "startedAt": clock.iso(recording.started_at),
        "endedAt": None if recording.ended_at is None else clock.iso(recording.ended_at),
        "durationSeconds": recording.duration / 1_000_000,
        "files": [
            {
                "name": file.name,
                "startedAt": clock.iso(file.started_at),
                "startSeconds": file.start / 1_000_000,
                "durationSeconds": file.duration / 1_000_000,
                "bytes": file.nbytes,
                "sha256": file.sha256.hex() if file.sha256 else None,
                "gap": file.gap,
                "tracks": [dict(track) for track in file.tracks],
            }
            for file in files
        ],
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=2)
