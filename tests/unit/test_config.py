"""Configuration: the documented file equals the code, wrong keys name their path, the environment reaches every key."""

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from medianode.config import Config, load, split_listen
from medianode.errors import ConfigError

FILE = Path(__file__).parents[2] / "config" / "medianode.toml"


def leaves(tree: dict[str, object], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    found: dict[tuple[str, ...], object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, (*path, key))
        else:
            found[(*path, key)] = value
    return found


def test_the_documented_file_lists_every_key_with_its_default() -> None:
    assert leaves(tomllib.loads(FILE.read_text())) == leaves(json.loads(msgspec.json.encode(Config())))
    assert load(FILE) == Config()


def test_every_key_takes_its_default_from_the_environment() -> None:
    for path, value in leaves(msgspec.to_builtins(Config())).items():
        text = ",".join(value) if isinstance(value, (list, tuple)) else str(value).lower() if isinstance(value, bool) else str(value)
        assert load(None, {"MEDIANODE__" + "__".join(path).upper(): text}) == Config(), path


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text('[http]\nlisten = ":1"\n')
    assert load(file, {"MEDIANODE__HTTP__LISTEN": ":2", "OTHER": "x"}).http.listen == ":2"
    assert load(None, {"MEDIANODE__HTTP__TRUSTED_PROXIES": "10.0.0.1, ::1"}).http.trusted_proxies == ("10.0.0.1", "::1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[hls]\ncontainre = 'ts'\n", r"hls\.containre: unknown key; did you mean container\?"),
        ("[hls]\ncontainer = 'mkv'\n", "hls.container"),
        ("[limits]\nrooms = 0\n", "limits.rooms"),
        ("[limits]\nrooms = 'many'\n", "limits.rooms"),
        ("[http]\nlisten = '8080'\n", "http.listen"),
        ("[http\n", "not TOML"),
        ("[tls]\ncertificate = 'a.pem'\n", "tls: certificate and key"),
        ("public_url = 'media.example.com'\n", "public_url"),
        ("[hls]\npart_duration = 1.5\n", "hls.part_duration"),
    ],
)
def test_mistakes_are_refused_with_their_path(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "m.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(file)


@pytest.mark.parametrize("name", ["MEDIANODE__HTTP__LISTNE", "MEDIANODE__NOPE", "MEDIANODE__HTTP", "MEDIANODE__HTTP__LISTEN__X"])
def test_unknown_environment_keys_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(None, {name: ":1"})


def test_a_wrong_environment_value_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"limits\.rooms"):
        load(None, {"MEDIANODE__LIMITS__ROOMS": "many"})


def test_missing_file() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("/nonexistent/m.toml"))


@pytest.mark.parametrize(
    ("value", "parts"), [(":80", (None, 80)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:8080", ("::1", 8080)), ("h:1", ("h", 1))]
)
def test_listen(value: str, parts: tuple[str | None, int]) -> None:
    assert split_listen(value) == parts


@pytest.mark.parametrize("value", ["", "80", ":http", ":99999", "h:"])
def test_bad_listen(value: str) -> None:
    with pytest.raises(ConfigError, match=r"rtmp\.listen"):
        split_listen(value, "rtmp.listen")
