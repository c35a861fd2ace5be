"""Signalling that is meant to hurt: bogus POSTs by the thousand, SDP bombs, bodies without end."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from pathlib import Path

import pytest
from harness.calls import AUDIO_IN, CERTIFICATE, VIDEO_IN, VIDEO_OUT, Line, calling
from harness.webrtc import TestPeer

BOUND = 128 * 1024
POSTS = 10_000
AT_ONCE = 8


def bodies(offer: str) -> list[bytes]:
    """Bogus offers: what a fuzzer's first day brings."""
    rng = random.Random(11)
    return [
        b"",
        b"v=0\r\n",
        b"garbage",
        rng.randbytes(500),
        b"\xff\xfe" + bytes(100),
        offer.encode()[: offer.index("a=fingerprint")],
        offer.replace("a=fingerprint", "a=x-fingerprint").encode(),
        offer.replace("a=ice-pwd", "a=x-ice-pwd").encode(),
        offer.replace("H264", "DIRAC").replace("opus", "OPUZ").encode(),
        offer.replace("sha-256", "md5").encode(),
        offer.replace("m=video 9", "m=video 99999999999999999999").encode(),
        offer.replace("\r\n", "\n").replace("a=mid:0", "a=mid:1").encode(),
        b"\r\n".join([b"v=0", b"o=- 1 2 IN IP4 0.0.0.0", b"s=-", b"t=0 0"] + [b"m=audio 9 RTP/AVP 0"] * 50),
    ]


async def test_ten_thousand_bogus_posts(tmp_path: Path) -> None:
    """Over keep-alive connections, to both doors: each is refused in words, nothing is left behind, and a good one is served after."""
    async with calling(tmp_path, limits={"failed_logins_per_minute": 100_000}) as line:
        key = (await line.ingress())["streamKey"]
        offer = TestPeer(CERTIFICATE).offer(VIDEO_OUT)
        wanted = TestPeer(CERTIFICATE).offer(VIDEO_IN, AUDIO_IN)
        async with line.publishing(key):
            await line.live()
            publications = line.node.daemon.registry.publications
            bogus = [("/whip/live/studio", body, key) for body in bodies(offer)]
            bogus += [("/whep/live/studio", body, "") for body in bodies(wanted)]
            bogus += [("/whep/live/nobody", wanted.encode(), ""), ("/whep/none/x", wanted.encode(), "")]
            bogus += [("/whip/live/studio", offer.encode(), "wrong-key"), ("/whip/live/%00", offer.encode(), key)]
            gc.collect()
            before = len(gc.get_objects())
            statuses: Counter[int] = Counter()
            turns = iter(range(POSTS))

            async def client() -> None:
                for turn in turns:
                    path, body, token = bogus[turn % len(bogus)]
                    reply = await line.post(path, body, token)
                    statuses[reply.status] += 1
                    assert 400 <= reply.status < 500, (turn % len(bogus), body, reply)
                    assert len(reply.text) < 2000

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(client())
            assert statuses.total() == POSTS
            assert set(statuses) <= {400, 401, 404, 406, 409, 413}
            assert (line.peers, line.resources, line.viewers) == (1, 1, 0)
            assert line.node.daemon.registry.publications == publications
            gc.collect()
            assert len(gc.get_objects()) - before < POSTS / 2, "less than one object for each bogus offer"
            async with line.viewing() as viewer:
                await viewer.until(10)


async def test_a_good_offer_over_and_over_leaves_as_many_as_are_alive(tmp_path: Path) -> None:
    """Answers that nobody takes up fill rtc_peers and not more; then 503 with Retry-After until they time out."""
    async with calling(tmp_path, limits={"rtc_peers": 20, "rtc_connect_timeout": 1.5}) as line:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key):
            await line.live()
            offer = TestPeer(CERTIFICATE).offer(VIDEO_IN, AUDIO_IN)
            statuses = [(await line.post("/whep/live/studio", offer)).status for _ in range(100)]
            assert Counter(statuses) == {201: 19, 503: 81}
            assert statuses == sorted(statuses)
            assert (line.peers, line.viewers) == (20, 19)
            async with line.http.post(f"{line.node.http}/whep/live/studio", data=offer) as response:
                assert int(response.headers["Retry-After"]) > 0
            await line.until(lambda: line.peers == 1)
            async with line.viewing() as viewer:
                await viewer.until(5)


async def test_viewers_that_never_connect_do_not_keep_publishers_out(tmp_path: Path) -> None:
    async with calling(tmp_path, limits={"rtc_peers": 40}) as line:
        key = (await line.ingress())["streamKey"]
        other = (await line.ingress("second"))["streamKey"]
        async with line.publishing(key):
            await line.live()
            offer = TestPeer(CERTIFICATE).offer(VIDEO_IN, AUDIO_IN)
            statuses = [(await line.post("/whep/live/studio", offer)).status for _ in range(50)]
            assert Counter(statuses) == {201: 38, 503: 12}
            async with line.publishing(other, "second"):
                await line.live("second")


BOMBS = {
    "sections": lambda offer: offer + VIDEO_IN.replace("\n", "\r\n") * 300,
    "attributes": lambda offer: offer + "a=x:y\r\n" * 15_000,
    "candidates": lambda offer: offer + "a=candidate:1 1 udp 1 bomb.local 9 typ host\r\n" * 2500,
    "payload-types": lambda offer: offer.replace("SAVPF 102", "SAVPF 102 " + " ".join(str(i % 128) for i in range(30_000))),
    "rtpmaps": lambda offer: offer + "".join(f"a=rtpmap:{i % 128} H264/90000\r\na=fmtp:{i % 128} a=b\r\n" for i in range(3000)),
    "fmtp": lambda offer: offer + "a=fmtp:102 " + ";".join(f"k{i}=v" for i in range(15_000)) + "\r\n",
    "ssrc-groups": lambda offer: offer + "".join(f"a=ssrc:{i} cname:x\r\na=ssrc-group:FID {i} {i + 1}\r\n" for i in range(2500)),
    "extmaps": lambda offer: offer + "".join(f"a=extmap:{i} urn:x:{i}\r\n" for i in range(5000)),
    "rids": lambda offer: (
        offer + "".join(f"a=rid:{i} send\r\n" for i in range(5000)) + "a=simulcast:send " + ";".join(map(str, range(5000))) + "\r\n"
    ),
    "fingerprints": lambda offer: offer + "a=fingerprint:sha-256 " + "AA:" * 31 + "AA\r\n" + "a=fingerprint:sha-256 AA\r\n" * 3000,
    "bundle": lambda offer: offer.replace("BUNDLE 0", "BUNDLE 0 " + "0 " * 50_000),
    "one-line": lambda offer: offer + "a=" + "x" * 100_000 + "\r\n",
    "no-line-ends": lambda offer: "v=0 " * 30_000,
    "digits": lambda offer: offer.replace("a=rtpmap:102", "a=rtpmap:" + "9" * 100_000),
}


@pytest.fixture(scope="module")
def offer() -> str:
    return TestPeer(CERTIFICATE).offer(VIDEO_OUT)


async def test_sdp_bombs(tmp_path: Path, offer: str) -> None:
    """All below 128 KiB and each of them as much of one thing as fits: answered or refused, and nothing stays of it."""
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        for name, make in BOMBS.items():
            bomb = make(offer)
            assert 5000 < len(bomb) <= BOUND, (name, len(bomb))
            reply = await line.post("/whip/live/studio", bomb, key)
            assert reply.status in (201, 400, 406, 413), (name, reply)
            assert len(reply.text) < 2 * len(bomb) + 5000, name
            if reply.status == 201:
                assert await line.delete(reply) == 200
            await line.until(lambda: line.peers == 0 and not line.node.daemon.registry.publications)
        async with line.publishing(key):
            await line.live()


async def test_the_bound_of_128_kib(tmp_path: Path, offer: str) -> None:
    async with calling(tmp_path) as line:
        key = (await line.ingress())["streamKey"]
        short = "a=x:" + "y" * 4090 + "\r\n"
        full = offer + short * ((BOUND - len(offer)) // 4096)
        full += "a=x:" + "y" * (BOUND - len(full) - 6) + "\r\n"
        assert len(full) == BOUND
        reply = await line.post("/whip/live/studio", full, key)
        assert reply.status == 201, reply
        await line.delete(reply)
        reply = await line.post("/whip/live/studio", full + " ", key)
        assert reply.status == 413
        assert "131072" in reply.text
        # chunked, without a length: cut off at the bound, not read to its end
        sent = 0

        async def endless():  # type: ignore[no-untyped-def]  # an async generator
            nonlocal sent
            while sent < 64 * BOUND:
                sent += 4096
                yield b"a=x:y\r\n" * 585 + b"z"

        async with line.http.post(
            f"{line.node.http}/whip/live/studio",
            data=endless(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/sdp"},
        ) as response:
            assert response.status == 413
        assert line.peers == 0
        # PATCH has a bound of its own
        reply = await line.post("/whip/live/studio", offer, key)
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": reply.etag}
        async with line.http.patch(f"{line.node.http}{reply.location}", data="a=x\r\n" * 30_000, headers=headers) as response:
            assert response.status == 413
        assert await line.delete(reply) == 200


async def test_a_body_that_never_ends_costs_only_its_connection(tmp_path: Path, offer: str) -> None:
    async with calling(tmp_path, limits={"request_timeout": 1.0}) as line:
        key = (await line.ingress())["streamKey"]
        head = f"POST /whip/live/studio HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/sdp\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", line.node.ready.http_port)
        writer.write(f"{head}Content-Length: 5000\r\n\r\nv=0\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 408 ")
        writer.close()
        await writer.wait_closed()
        # and one whose client goes away in the middle
        reader, writer = await asyncio.open_connection("127.0.0.1", line.node.ready.http_port)
        writer.write(f"{head}Content-Length: 5000\r\n\r\nv=0\r\n".encode())
        writer.close()
        await writer.wait_closed()
        assert (line.peers, line.resources) == (0, 0)
        assert await _serves(line, key)


async def _serves(line: Line, key: str) -> bool:
    async with line.publishing(key):
        await line.live()
    return True
