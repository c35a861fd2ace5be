import json
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "vectors" / "codecs"


@pytest.fixture(scope="session")
def vectors() -> dict[str, bytes]:
    return {item["name"]: bytes.fromhex(item["hex"]) for item in json.loads((VECTORS / "headers.json").read_text())}


@pytest.fixture(scope="session")
def broken() -> list[dict[str, str]]:
    return json.loads((VECTORS / "broken.json").read_text())
