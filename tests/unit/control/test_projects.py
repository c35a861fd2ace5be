from __future__ import annotations

from typing import Any

import pytest

from medianode.control.projects import Projects
from medianode.errors import Conflict, InvalidRequest, NotFound
from medianode.events import Bus, ProjectChanged


async def test_create_find_list(house: Any) -> None:
    made = await house.projects.create("shop", "The Shop")
    assert made.id.startswith("prj_")
    assert (made.viewing, made.open_publish) == ("public", False)
    assert await house.projects.get("shop") == await house.projects.get(made.id) == made
    assert await house.projects.issuer(made.jwt_key_id) == made
    other = await house.projects.create("other")
    assert [p.slug for p in await house.projects.list()] == ["shop", "other"]
    assert [p.slug for p in await house.projects.list(limit=1, offset=1)] == ["other"]
    assert other.jwt_secret != made.jwt_secret
    assert made.jwt_secret not in repr(made)


async def test_refused(house: Any) -> None:
    await house.projects.create("shop")
    with pytest.raises(Conflict, match="'shop' exists"):
        await house.projects.create("shop")
    with pytest.raises(InvalidRequest, match="reserved"):
        await house.projects.create("streams")
    with pytest.raises(InvalidRequest, match="name: "):
        await house.projects.create("a", "\n")
    for absent in ("none", "", "x" * 1000, "a\0b", "\ud800", "é"):
        with pytest.raises(NotFound):
            await house.projects.get(absent)
        with pytest.raises(NotFound):
            await house.projects.change(absent, open_publish=True)
        with pytest.raises(NotFound):
            await house.projects.issuer(absent)


async def test_a_change_is_seen_at_once_here_and_soon_elsewhere(house: Any, time: Any) -> None:
    elsewhere = Projects(house.db, Bus(), ttl=3.0)
    made = await house.projects.create("shop")
    assert (await elsewhere.get("shop")).viewing == "public"
    assert await elsewhere.find("later") is None
    assert (await house.projects.get("shop")).viewing == "public"
    changed = await house.projects.change("shop", viewing="token", open_publish=True)
    await house.projects.create("later")
    assert (changed.viewing, changed.open_publish) == ("token", True)
    assert await house.projects.get("shop") == changed
    assert (await elsewhere.get("shop")).viewing == "public"
    time.pass_by(3.0)
    assert (await elsewhere.get("shop")).viewing == "token"
    assert (await elsewhere.get("later")).slug == "later"
    assert house.told[:2] == [ProjectChanged(made.id, "shop")] * 2
    assert (await house.projects.change("shop", open_publish=False)).viewing == "token"
