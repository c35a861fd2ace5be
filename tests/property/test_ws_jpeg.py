"""The camera door's pure part under random messages: the fuzz target, driven by Hypothesis in the ordinary suite."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

STEP = st.builds(
    lambda kind, delay, body: bytes((kind, delay, len(body) // 4)) + body[: len(body) // 4 * 4],
    st.integers(0, 3),
    st.integers(0, 255),
    st.binary(max_size=900),
)


@pytest.fixture(scope="module")
def one_input() -> Callable[[bytes], None]:
    path = Path(__file__).parents[1] / "fuzz" / "fuzz_ws_jpeg.py"
    spec = importlib.util.spec_from_file_location("fuzz_ws_jpeg", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target: Callable[[bytes], None] = module.one_input
    return target


@given(data=st.lists(STEP, max_size=40).map(b"".join) | st.binary(max_size=4000))
def test_any_messages_give_verdicts_of_the_contract(one_input: Callable[[bytes], None], data: bytes) -> None:
    one_input(data)


def test_the_target_reaches_frames(one_input: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its made-up JPEG is one, else the fuzzer would only ever see refusals."""
    from medianode.codecs.jpeg import parse_jpeg

    opening = one_input.__globals__["OPENING"]  # type: ignore[attr-defined]  # a plain function has them
    info = parse_jpeg(opening + b"\xff\xd9")
    assert (info.width, info.height) == (8, 8)
    one_input(bytes((1, 0, 0)) * 3)
