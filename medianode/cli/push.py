"""push: publish a file or a test picture, as an encoder would."""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
from pathlib import Path

from medianode import clock
from medianode.cli.commands import Commands, command
from medianode.config import Config
from medianode.egress.rtmp_publish import RtmpPublisher, open_publisher
from medianode.errors import MedianodeError, PeerError
from medianode.protocols.rtmp.url import RtmpUrl, parse_rtmp_url
from medianode.transcode.source import MediaSource, open_source

PUSH_REPORT = 5.0


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    push = command(commands, "push", _push, "Publish a file or a test picture to an RTMP(S) URL, in real time.")
    push.add_argument("source", help="a media file, or testsrc")
    push.add_argument("url", help="rtmp://host/app/key or rtmps://…")
    push.add_argument("--loop", action="store_true", help="start the file again at its end")
    push.add_argument("--seconds", type=float, default=0.0, help="stop after this long")
    push.add_argument("--cafile", type=Path, help="PEM to trust for rtmps: a node's own is at /certificate.pem")


async def _push(arguments: argparse.Namespace, config: Config) -> int:
    url = parse_rtmp_url(arguments.url)
    try:
        return await _push_to(url, arguments)
    except ssl.SSLCertVerificationError as e:
        raise PeerError(
            f"the certificate of {url.host}:{url.port} is not trusted ({e.verify_message}): give its PEM by --cafile; "
            f"a medianode's own is at http://{url.host}:8080/certificate.pem",
            code="certificate-not-trusted",
        ) from None
    except (OSError, TimeoutError) as e:
        reason = os.strerror(e.errno) if isinstance(e, OSError) and e.errno else str(e) or "no answer in time"
        raise PeerError(f"{url.host}:{url.port}: {reason}: is the server running, and this its RTMP port?", code="unreachable") from None


async def _push_to(url: RtmpUrl, arguments: argparse.Namespace) -> int:
    trust = ssl.create_default_context(cafile=str(arguments.cafile)) if arguments.cafile else None
    async with open_source(arguments.source, loop=arguments.loop) as source, open_publisher(url, verify=trust) as publisher:
        names = ", ".join(
            f"{t.codec.value} {t.width}x{t.height}" if t.is_video else f"{t.codec.value} {t.sample_rate} Hz" for t in source.tracks
        )
        print(f"publishing {names} to {url.tc_url}/…; Ctrl-C ends it", flush=True)
        try:
            await _send(arguments.seconds, source, publisher)
        except ExceptionGroup as e:  # what the server said, or else how the connection went away: one line is enough
            raise next((x for x in e.exceptions if isinstance(x, MedianodeError)), e.exceptions[0]) from None
    return 0


async def _send(seconds: float, source: MediaSource, publisher: RtmpPublisher) -> None:
    """Until the source ends, or for `seconds` (0: without end). Raises a group with what ended it."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(publisher.watch())
        await publisher.open_tracks(source.tracks)
        start = reported = clock.now()
        async for packet in source:
            await publisher.send(packet)
            now = clock.now()
            if seconds and now - start >= seconds:
                break
            if now - reported >= PUSH_REPORT:
                reported = now
                print(f"{now - start:.0f} s, {publisher.sent_bytes / 1e6:.1f} MB sent", flush=True)
        await publisher.finish()
        watching.cancel()
