"""Bad networks: packets that are lost, late, doubled and out of order, both ways, through a seeded path."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.calls import calling
from harness.rough import ALL, rough

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("loss", [0.05, 0.2])
async def test_a_viewer_on_a_lossy_path_keeps_its_picture(tmp_path: Path, loss: float) -> None:
    async with calling(tmp_path) as line, rough(line.port, loss=loss, seed=3) as path:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=4000):
            await line.live()
            async with line.viewing(through=path) as viewer:
                frames = await viewer.until(60)
                assert path.seen["lost"] > 3
                assert viewer.nacks > 3
                (view,) = (await line.api("GET", "/api/v1/viewers"))["data"]
                assert view["resent"] > 1
                assert frames == sorted(set(frames))
                # what came late in the measured time may still be on its way
                settled = frames[:-20]
                assert len(settled) >= 0.9 * (settled[-1] - settled[0] + 1)


@pytest.mark.parametrize("loss", [0.05, 0.2])
async def test_a_publisher_on_a_lossy_path_is_repaired(tmp_path: Path, loss: float) -> None:
    async with calling(tmp_path) as line, rough(line.port, loss=loss, seed=4) as path:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=4000, through=path):
            await line.live()
            async with line.viewing() as viewer:
                frames = await viewer.until(60)
            (publication,) = line.node.daemon.registry.publications
            assert path.seen["lost"] > 3
            assert publication.health.network["recovered"] > 2
            assert frames == sorted(set(frames))
            # of one loss in five, unrepaired, two of five pictures would be whole, and none up to the next key frame
            assert len(frames) >= (0.9 if loss < 0.1 else 0.7) * (frames[-1] - frames[0] + 1)


async def test_late_doubled_and_lost_packets_come_out_in_order_and_once(tmp_path: Path) -> None:
    """Both the publisher and the viewer are behind the path."""
    async with (
        calling(tmp_path) as line,
        rough(line.port, loss=0.02, double=0.1, late=0.1, seed=5) as up,
        rough(line.port, loss=0.02, double=0.1, late=0.1, seed=6) as down,
    ):
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, size=4000, through=up):
            await line.live()
            async with line.viewing(through=down) as viewer:
                frames = await viewer.until(60)
                settled = frames[:-20]
                assert settled == list(range(settled[0], settled[-1] + 1)), "none twice, none out of order, none lost"
                assert viewer.sounds > 25
            (publication,) = line.node.daemon.registry.publications
            assert publication.health.network["duplicates"] > 5
            for path in (up, down):
                assert min(path.seen[what] for what in ("lost", "doubled", "late")) > 5


async def test_a_handshake_gets_through_one_loss_in_five(tmp_path: Path) -> None:
    """STUN and DTLS too, of a publisher and of a viewer."""
    async with calling(tmp_path) as line, rough(line.port, loss=0.2, double=0.1, late=0.1, kinds=ALL, seed=7) as up:
        key = (await line.ingress())["streamKey"]
        async with line.publishing(key, through=up), rough(line.port, loss=0.2, kinds=ALL, seed=8) as down:
            await line.live()
            async with line.viewing(through=down) as viewer:
                await viewer.until(25)


async def test_a_handshake_that_lost_a_flight_does_not_slow_repairs(tmp_path: Path) -> None:
    """The round trip that it shows is none of the path's; losses are repaired as fast as ever, both ways."""
    async with calling(tmp_path) as line, rough(line.port, seed=9) as up, rough(line.port, seed=10) as down:
        key = (await line.ingress())["streamKey"]
        up.lose_flight = down.lose_flight = True
        async with line.publishing(key, size=4000, through=up):
            await line.live()
            async with line.viewing(through=down) as viewer:
                assert min(up.seen["flight"], down.seen["flight"]) > 0
                up.loss = down.loss = 0.15
                frames = await viewer.until(60)
                settled = [n for n in frames if n < frames[-1] - 20]
                # without repairs half of all pictures would lack a packet
                assert len(settled) >= 0.8 * (settled[-1] - settled[0] + 1)
