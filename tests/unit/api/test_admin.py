"""How long recordings are kept, as it is said."""

from __future__ import annotations

import pytest

from medianode.api.admin import ProjectChange, RecordingPolicyChange, _recording
from medianode.api.fields import build
from medianode.control.recording_policy import LONGEST
from medianode.errors import InvalidRequest


def said(change: object) -> dict[str, object]:
    built = build({"recording": change}, ProjectChange, unknown="all").recording
    assert isinstance(built, RecordingPolicyChange)
    return _recording(built)


def test_spans_are_read_in_their_units() -> None:
    assert said({"maxAge": "30d", "minKeep": "12h"}) == {"maxAge": 30 * 86_400.0, "minKeep": 43_200.0}
    assert said({"maxAge": "90m"}) == {"maxAge": 5400.0}
    assert said({"maxAge": 60, "minKeep": None}) == {"maxAge": 60.0, "minKeep": None}
    assert said({"maxAge": "5218w"}) == {"maxAge": 5218 * 7 * 86_400.0}


@pytest.mark.parametrize(
    "text", ["", "d", "30", "-1d", "1.5h", "0s", "30 d", "30D", f"{LONGEST + 1}s", "9999999999999999999999999999w", "٣d"]
)
def test_what_is_no_span_is_told_with_its_unit(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"recording\.maxAge: expected text such as '30d', '12h' or '90m'"):
        said({"maxAge": text})


def test_wrong_numbers_are_told_with_their_unit() -> None:
    with pytest.raises(InvalidRequest, match=r"recording\.maxAge: expected seconds, a number from 1 to \d+, or text such as '30d'"):
        said({"maxAge": 0})
    with pytest.raises(InvalidRequest, match=r"recording\.maxBytes: expected bytes, a whole number from 1000000 to 1"):
        said({"maxBytes": "10GB"})
