"""Writing: what comes to pass goes into the database as it does, and the last of it at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from medianode.errors import StorageError

RETRY = 1.0
LAST_TRIES = 3

log = logging.getLogger(__name__)


async def keep_writing(
    what: str, wake: asyncio.Event, write: Callable[[], Awaitable[None]], waiting: Callable[[], int], consequence: str
) -> None:
    """Call `write` whenever `wake` is set; runs until cancelled, and then writes the last. A database that cannot be written is tried again
    each second. `waiting`: how many changes do; `consequence`: of those that are never written.
    """
    try:
        while True:
            await wake.wait()
            wake.clear()
            try:
                # what is being written when the end comes is written: the last of it waits for that
                await asyncio.shield(write())
            except StorageError as e:
                log.warning("%s not written (%d changes wait): %s: %s", what, waiting(), e.code, e)
                await asyncio.sleep(RETRY)
                wake.set()
    finally:
        await _write_last(what, write, consequence)


async def _write_last(what: str, write: Callable[[], Awaitable[None]], consequence: str) -> None:
    for left in reversed(range(LAST_TRIES)):
        try:
            await write()
            return
        except StorageError as e:
            if left:
                await asyncio.sleep(RETRY)
            else:
                log.error("the last of the %s is not written (%s): %s: %s", what, consequence, e.code, e)
