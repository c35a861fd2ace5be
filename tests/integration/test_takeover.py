"""Two encoders, one key: the policy that an ingress was made with."""

from pathlib import Path

import pytest
from aiohttp import ClientSession
from harness import publishing, running, send_second, until

from medianode.errors import PeerError

DIALECTS = pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/ingress", {"inputType": "RTMP_INPUT", "roomName": "guarded", "participantIdentity": "obs"}, "streamKey"),
        ("/api/v1/apps/live/ingress", {"inputType": "rtmp", "room": "guarded"}, "streamKey"),
    ],
    ids=["BaxCloud", "StreamHub"],
)


@DIALECTS
async def test_replace_lets_the_second_encoder_in(tmp_path: Path, path: str, body: dict[str, str], key: str) -> None:
    async with running(tmp_path) as node, ClientSession(headers=node.admin) as session:
        async with session.post(f"{node.http}{path}", json={**body, "takeover": "replace"}) as response:
            made = await response.json()
        target = f"{node.rtmp}/live/{made.get('data', made)[key]}"
        async with publishing(target) as first:
            await send_second(first)
            await until(lambda: node.daemon.registry.publications)
            old = node.daemon.registry.publications[0]
            async with publishing(target) as second:
                await send_second(second)
                with pytest.raises(PeerError):
                    await first.watch()
                assert node.daemon.registry.publications[0] is not old


@DIALECTS
async def test_reject_keeps_the_first_encoder(tmp_path: Path, path: str, body: dict[str, str], key: str) -> None:
    async with running(tmp_path) as node, ClientSession(headers=node.admin) as session:
        async with session.post(f"{node.http}{path}", json={**body, "takeover": "reject"}) as response:
            assert response.status == 201, await response.text()
            made = await response.json()
        async with session.post(f"{node.http}{path}", json={**body, "takeover": "perhaps"}) as response:
            assert response.status == 400
        stream_key = made.get("data", made)[key]
        async with publishing(f"{node.rtmp}/live/{stream_key}") as first:
            await send_second(first)
            await until(lambda: node.daemon.registry.publications)
            publication = node.daemon.registry.publications[0]
            with pytest.raises(PeerError, match=r"NetStream\.Publish\.BadName: .*publishes here already"):
                async with publishing(f"{node.rtmp}/live/{stream_key}"):
                    pass
            assert node.daemon.registry.publications == [publication]


async def test_an_encoder_that_is_back_at_once_is_let_in(tmp_path: Path) -> None:
    """Its old connection closed without a word, and the end of it is read a moment later than the new one asks."""
    async with running(tmp_path) as node:
        for _ in range(3):
            async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
                await send_second(publisher)
                await until(lambda: node.on_air)
