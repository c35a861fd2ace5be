"""Cameras for tests: GStreamer's RTSP server as a process, with pipelines of Debian's plugins."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

H264 = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 ! "
    "openh264enc bitrate={bitrate} gop-size=25 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=1"
)
H265 = (
    "videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1,format=I420 ! "
    "x265enc bitrate=300 key-int-max=25 tune=zerolatency speed-preset=ultrafast ! h265parse ! rtph265pay name=pay0 pt=96 config-interval=1"
)
JPEG = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=10/1,format=I420 ! jpegenc ! rtpjpegpay name=pay0 pt=26"
AAC = "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=2 ! voaacenc bitrate=64000 ! aacparse ! rtpmp4gpay name=pay1 pt=97"
G711 = "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! alawenc ! rtppcmapay name=pay1 pt=8"


def h264(bitrate: int = 400_000) -> str:
    return H264.format(bitrate=bitrate)


class Camera:
    """`process.kill()` cuts its power."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def url(self, path: str, userinfo: str = "") -> str:
        return f"rtsp://{userinfo + '@' if userinfo else ''}127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def camera(
    mounts: Mapping[str, str],
    *,
    user: str = "",
    password: str = "",
    scheme: str = "digest",
    transports: Sequence[str] = ("udp", "tcp"),
    port: int = 0,
) -> Iterator[Camera]:
    """Fails, and does not skip, where Debian's packages are missing (tests/need.sh)."""
    wanted = {"mounts": dict(mounts), "user": user, "password": password, "scheme": scheme, "transports": list(transports), "port": port}
    command = ["/usr/bin/python3", str(Path(__file__).with_name("camera_server.py")), json.dumps(wanted)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.strip().isdigit(), "the camera did not start: see tests/need.sh"
        yield Camera(process, int(line))
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
