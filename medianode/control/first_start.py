"""The first start of a node: project `live`, an admin key, an ingress to push to. Doing it again changes nothing."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from medianode.auth import Door, Permission
from medianode.control.ingresses import new_ingress
from medianode.control.keys import new_key
from medianode.control.projects import new_project
from medianode.errors import ConfigError, StorageError
from medianode.store import ingresses, keys, projects, settings
from medianode.store.database import Database
from medianode.store.ingresses import Ingress
from medianode.store.projects import Project, Viewing
from medianode.store.secrets import key_hash, write_once

SLUG = "live"
ROOM = "studio"
ADMIN_KEY_FILE = "admin.key"

_INGRESS = "first-ingress"
_ADVICE = "medianode keys create makes another"


@dataclass(frozen=True, slots=True)
class FirstStart:
    """`admin_key` is what to print, and only when `created`. `project` and `ingress` are None once an operator has deleted them."""

    created: bool
    project: Project | None
    ingress: Ingress | None
    admin_key_file: Path
    admin_key: str | None = field(default=None, repr=False)


async def first_start(db: Database, data_dir: Path, *, viewing: Viewing = "public") -> FirstStart:
    """Where there is no project yet, make project `live`, an admin key and an RTMP ingress to room `studio`.

    The admin key is also kept in `<data_dir>/admin.key` (0600).
    The file comes first and the database second: a crash between the two leaves a file that the next start takes up, never a stored key
    that nobody has. Of two nodes that start at once, one makes them. Raises StorageError, ConfigError.
    """
    path = data_dir / ADMIN_KEY_FILE
    async with db.read() as tx:
        fresh = await projects.count(tx) == 0
    if not fresh:
        return await _as_it_is(db, path)
    mine = write_once(path, f"sk_{secrets.token_urlsafe(32)}\n".encode())
    secret = _read_admin_key(path)
    project = new_project(SLUG, viewing=viewing)
    ingress = new_ingress(project, Door.RTMP, ROOM)
    admin = new_key("admin", [Permission.ADMIN], None, secret)
    async with db.write() as tx:
        await settings.lock(tx)
        fresh = await projects.count(tx) == 0
        if fresh:
            await projects.insert_project(tx, project)
            if await keys.find_by_hash(tx, admin.key.hash) is None:
                await keys.insert_key(tx, admin.key)
            await ingresses.insert_ingress(tx, ingress)
            await settings.put(tx, _INGRESS, ingress.id)
        known = await keys.find_by_hash(tx, key_hash(secret)) is not None
    if fresh:
        return FirstStart(True, project, ingress, path, secret)
    if mine and not known:
        path.unlink(missing_ok=True)  # another node, with a data directory of its own, was first: this key opens nothing
    return await _as_it_is(db, path)


async def _as_it_is(db: Database, path: Path) -> FirstStart:
    async with db.read() as tx:
        project = await projects.find(tx, SLUG)
        ingress_id = await settings.get(tx, _INGRESS)
        ingress = None if ingress_id is None else await ingresses.find(tx, ingress_id)
    return FirstStart(False, project, ingress, path)


def _read_admin_key(path: Path) -> str:
    try:
        text = path.read_text("ascii").strip()
    except OSError as e:
        raise StorageError(f"{path}: cannot be read: {e.strerror or e}") from e
    except UnicodeDecodeError:
        text = ""
    if not re.fullmatch(r"sk_[A-Za-z0-9_-]{43}", text):
        raise ConfigError(f"{path}: expected an admin key, sk_ and 43 characters: remove the file ({_ADVICE})")
    return text
