from __future__ import annotations

from medianode.control.cache import Cache


def test_good_for_its_time_and_no_longer() -> None:
    cache: Cache[str, int | None] = Cache(10, 3.0)
    cache.put("a", None, 0.0, cache.generation)
    assert cache.get("a", 2.9) == (None,)
    assert cache.get("a", 3.0) is None
    assert cache.stale("a") == (None,), "kept for when the database is away"
    cache.drop("a")
    assert cache.stale("a") is None


def test_bounded() -> None:
    cache: Cache[int, int] = Cache(10, 3.0)
    for i in range(100):
        cache.put(i, i, 0.0, cache.generation)
        assert len(cache) <= 10
    assert cache.get(99, 0.0) == (99,)
    assert cache.get(0, 0.0) is None


def test_an_answer_asked_for_before_a_change_is_not_kept() -> None:
    cache: Cache[str, int] = Cache(10, 3.0)
    asked = cache.generation
    cache.forget(lambda value: value == 1)
    cache.put("a", 1, 0.0, asked)
    assert cache.get("a", 0.0) is None
    cache.put("a", 1, 0.0, cache.generation)
    cache.put("b", 2, 0.0, cache.generation)
    cache.forget(lambda value: value == 1)
    assert (cache.get("a", 0.0), cache.get("b", 0.0)) == (None, (2,))
    cache.clear()
    assert cache.get("b", 0.0) is None
