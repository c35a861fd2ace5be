"""A stranger without a key who asks to publish thousands of times in one breath: the node lives, and others are served."""

from __future__ import annotations

import asyncio
from pathlib import Path

from harness import publishing, running, send_second, until

from medianode.protocols.rtmp import messages as m


async def test_a_flood_of_publish_commands_does_not_end_the_node(tmp_path: Path) -> None:
    connect = m.command(128, 0, "connect", 1.0, {"app": "live"}) + m.command(128, 0, "createStream", 2.0, None)
    pair = m.command(128, 1, "publish", 3.0, None, "guess", "live") + m.command(128, 1, "closeStream", 0.0, None)
    # the set of RTMP tasks holds twice the connections: 16 here, 8192 by default, which four strangers fill
    async with running(tmp_path, limits={"tcp_connections": 8}) as node:
        port = node.ready.rtmp_port
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x03" + bytes(3072) + connect)
        await asyncio.sleep(0.2)
        _, other = await asyncio.open_connection("127.0.0.1", port)
        writer.write(pair * 500)
        for _ in range(3):
            _, more = await asyncio.open_connection("127.0.0.1", port)
            more.close()
        async with publishing(f"{node.rtmp}/live/{node.key}") as publisher:
            await send_second(publisher)
            await until(lambda: node.on_air)
        writer.close()
        other.close()
