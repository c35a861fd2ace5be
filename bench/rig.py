"""What the benchmarks share: CPU seconds of a process tree, a clip, FFmpeg publishers, a node and nginx-rtmp started for a run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
NGINX_RTMP = "/usr/lib/nginx/modules/ngx_rtmp_module.so"


@dataclass(frozen=True, slots=True)
class Sample:
    """`cpu`: user and system seconds of the tree, ended children included. `rss`: bytes over the tree."""

    wall: float
    cpu: float
    rss: int


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().decode("latin-1").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(root: int) -> list[int]:
    """Every live process whose ancestry reaches root, root first."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (s := _stat(int(name))):
            children.setdefault(int(s[1]), []).append(int(name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def sample(root: int) -> Sample:
    cpu, rss = 0.0, 0
    for pid in tree(root):
        if s := _stat(pid):
            cpu += sum(int(x) for x in s[11:15]) / TICK
            rss += int(s[21]) * PAGE
    return Sample(time.monotonic(), cpu, rss)


def measure(root: int, seconds: float) -> tuple[float, int]:
    """CPU seconds per second of wall time over a window, and RSS at its end."""
    before = sample(root)
    time.sleep(seconds)
    after = sample(root)
    return (after.cpu - before.cpu) / (after.wall - before.wall), after.rss


def shares(roots: Sequence[int], seconds: float) -> list[float]:
    """Percent of a core of each process tree, over the same window."""
    before = [sample(pid) for pid in roots]
    time.sleep(seconds)
    after = [sample(pid) for pid in roots]
    return [(b.cpu - a.cpu) / (b.wall - a.wall) * 100 for a, b in zip(before, after, strict=True)]


def machine() -> str:
    """What the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    return f"{os.cpu_count()} x {model}, Linux {os.uname().release}, Python {sys.version.split()[0]}, load {load()}"


def load() -> str:
    """The one-minute load average: other work on the machine shows here."""
    return f"{os.getloadavg()[0]:.1f}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def clip(seconds: int = 20, kbps: int = 2500, size: str = "1920x1080", fps: int = 30) -> Path:
    """1080p30 H.264 baseline at 2.5 Mbit/s with a 2 s GOP and 128k AAC, as FLV; encoded once and kept in the temporary directory."""
    path = Path(tempfile.gettempdir()) / f"medianode_bench_{size}_{fps}_{kbps}k_{seconds}s.flv"
    if path.exists():
        return path
    part = path.with_suffix(".part.flv")
    picture = f"testsrc2=s={size}:r={fps},noise=alls=12:allf=t"
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-y", "-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", "sine=f=440:r=48000"]
    command += ["-t", str(seconds), "-c:v", "libx264", "-preset", "superfast", "-profile:v", "baseline", "-pix_fmt", "yuv420p"]
    command += ["-b:v", f"{kbps}k", "-maxrate", f"{kbps}k", "-bufsize", f"{kbps}k", "-g", str(2 * fps), "-keyint_min", str(2 * fps)]
    command += ["-sc_threshold", "0", "-bf", "0", "-x264-params", "slices=1:sliced-threads=0", "-c:a", "aac", "-b:a", "128k", "-ac", "2"]
    subprocess.run([*command, "-f", "flv", str(part)], check=True)
    part.rename(path)
    return path


@contextmanager
def ffmpegs(commands: Iterable[Sequence[str]], *, apart: float = 0.0, settle: float = 0.0) -> Iterator[list[subprocess.Popen[bytes]]]:
    """FFmpegs with these arguments, as long as the block, which begins `settle` seconds after the last. `apart`: seconds between two."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in commands:
            command = [FFMPEG, "-hide_banner", "-loglevel", "error", *arguments]
            running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            time.sleep(apart)
        time.sleep(settle)
        yield running
        if dead := sum(process.poll() is not None for process in running):
            raise RuntimeError(f"{dead} of {len(running)} FFmpegs ended early")
    finally:
        stop(*running)


@contextmanager
def publishers(url: str, count: int, source: Path) -> Iterator[None]:
    """`count` real-time publishers; {name} in the URL is s0, s1, …"""
    arguments = ["-re", "-stream_loop", "-1", "-i", str(source), "-c", "copy", "-f", "flv", "-flvflags", "no_duration_filesize"]
    with ffmpegs(([*arguments, url.format(name=f"s{i}")] for i in range(count)), apart=1.0 / count):
        yield


def stop(*processes: subprocess.Popen[Any]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(8)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}")


@dataclass(frozen=True, slots=True)
class Server:
    pid: int
    http: int
    rtmp: int
    admin: str = ""

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The API, with the admin key."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Authorization": f"Bearer {self.admin}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def metrics(self) -> dict[str, float]:
        """Samples by name with labels, as Prometheus writes them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=30) as response:
            lines = response.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


@contextmanager
def medianode(**environment: str) -> Iterator[Server]:
    """A node of its own, open to key-less publishing; further keys as MEDIANODE__… variables."""
    root = Path(tempfile.mkdtemp(prefix="medianode-bench-"))
    http, rtmp = free_port(), free_port()
    env = {**os.environ, "MEDIANODE__DATA_DIR": str(root / "data"), "MEDIANODE__HTTP__LISTEN": f"127.0.0.1:{http}"}
    rtc = f"127.0.0.1:{free_port()}"
    env |= {"MEDIANODE__RTC__LISTEN": rtc, "MEDIANODE__RTC__TCP_LISTEN": "", "MEDIANODE__SRT__LISTEN": "127.0.0.1:0"}
    env |= {"MEDIANODE__RTMP__LISTEN": f"127.0.0.1:{rtmp}", "MEDIANODE__LOG__LEVEL": "warning", **environment}
    env |= {"MEDIANODE__LIMITS__TCP_CONNECTIONS_PER_PEER": "4096"}
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "medianode", "serve"], env=env, stdout=log, stderr=log)
    try:
        wait_for(http, process)
        urllib.request.urlopen(f"http://127.0.0.1:{http}/readyz", timeout=30).read()  # the socket listens before the node serves
        admin = (root / "data" / "admin.key").read_text().strip()
        server = Server(process.pid, http, rtmp, admin)
        server.call("PATCH", "/api/v1/projects/live", {"openPublish": True})
        yield server
    finally:
        stop(process)
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def nginx_rtmp() -> Iterator[Server]:
    """Debian's nginx with libnginx-mod-rtmp: one worker, HLS on disk, 2 s fragments; as in shared/research/baselines.md."""
    if not Path(NGINX_RTMP).exists():
        raise RuntimeError("the peer is missing: apt-get install nginx libnginx-mod-rtmp")
    root = Path(tempfile.mkdtemp(prefix="medianode-nginx-"))
    http, rtmp = free_port(), free_port()
    (root / "nginx.conf").write_text(f"""
load_module {NGINX_RTMP};
daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log error; user root;
events {{ worker_connections 4096; }}
rtmp {{ server {{ listen 127.0.0.1:{rtmp}; chunk_size 4096;
  application live {{ live on; hls on; hls_path {root}/hls; hls_fragment 2s; hls_playlist_length 12s; }} }} }}
http {{ access_log off; sendfile on; client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
  uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{ listen 127.0.0.1:{http}; location /hls {{ root {root}; add_header Cache-Control no-cache; }} }} }}
""")
    process = subprocess.Popen(["nginx", "-p", str(root), "-c", str(root / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        wait_for(rtmp, process)
        yield Server(process.pid, http, rtmp)
    finally:
        stop(process)
        shutil.rmtree(root, ignore_errors=True)
