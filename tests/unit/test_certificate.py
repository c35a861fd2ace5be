"""The certificate: made with the right names, kept, renewed, refused where it is of no use."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from medianode import certificate, clock
from medianode.certificate import RENEW_DAYS, Certificate, open_certificate
from medianode.config import Config, Tls
from medianode.errors import ConfigError, StorageError


def config(*names: str, public_url: str = "") -> Config:
    return Config(public_url=public_url, tls=Tls(names=names))


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> str:
    """Both ends in memory; the version that they agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    left = [theirs, ours]
    while left:
        for side in tuple(left):
            try:
                side.do_handshake()
                left.remove(side)
            except ssl.SSLWantReadError:
                continue
    return str(theirs.version())


def trusting(made: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=made.pem.decode())


def test_the_self_made_one_is_good_for_configured_and_local_names(tmp_path: Path) -> None:
    made = open_certificate(config("Node.Example", "192.0.2.7", "[2001:DB8::1]", public_url="https://tv.example:8443/x"), tmp_path)
    assert made.self_made
    assert made.names[:4] == ("node.example", "192.0.2.7", "2001:db8::1", "tv.example")
    assert {"localhost", "127.0.0.1", "::1", socket.gethostname()} <= set(made.names)
    assert made.days_left > 3600
    for name in ("node.example", "192.0.2.7", "2001:db8::1", "tv.example", "localhost", "127.0.0.1"):
        assert handshake(made.context, trusting(made), name).startswith("TLSv1.")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made.context, trusting(made), "other.example")


def test_old_tls_is_refused(tmp_path: Path) -> None:
    made = open_certificate(config(), tmp_path)
    assert made.context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_key_is_ours_alone_and_the_pem_has_no_key(tmp_path: Path) -> None:
    made = open_certificate(config(), tmp_path)
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    assert b"PRIVATE" not in made.pem
    assert b"PRIVATE" in (tmp_path / "tls.key").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tls.crt", "tls.key"]


def test_it_is_kept_while_it_is_good(tmp_path: Path) -> None:
    first = open_certificate(config("a.example"), tmp_path)
    assert open_certificate(config("a.example"), tmp_path).pem == first.pem
    assert open_certificate(config(), tmp_path).pem == first.pem, "a name too many does no harm"


def test_a_new_name_makes_a_new_one(tmp_path: Path) -> None:
    first = open_certificate(config("a.example"), tmp_path)
    second = open_certificate(config("a.example", "b.example"), tmp_path)
    assert second.pem != first.pem
    assert {"a.example", "b.example"} <= set(second.names)


def test_near_its_end_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_certificate(config(), tmp_path)
    real = clock.wallclock()
    later = real + (first.days_left - RENEW_DAYS + 1) * 86_400
    monkeypatch.setattr(clock, "wallclock", lambda: later)
    assert first.days_left < RENEW_DAYS
    second = open_certificate(config(), tmp_path)
    assert second.pem != first.pem
    assert second.days_left > 3600


def test_a_lost_half_makes_a_new_pair(tmp_path: Path) -> None:
    open_certificate(config(), tmp_path)
    (tmp_path / "tls.key").unlink()
    made = open_certificate(config(), tmp_path)
    assert handshake(made.context, trusting(made), "localhost")


def test_the_operator_s_own_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    open_certificate(config("theirs.example"), tmp_path / "theirs")
    tls = Tls(certificate=str(tmp_path / "theirs/tls.crt"), key=str(tmp_path / "theirs/tls.key"), names=("unheeded.example",))
    used = open_certificate(Config(tls=tls), tmp_path)
    assert not used.self_made
    assert "theirs.example" in used.names
    assert "unheeded.example" not in used.names
    assert not (tmp_path / "tls.crt").exists()


@pytest.mark.parametrize("broken", ["missing", "not PEM", "key of another", "no key"])
def test_what_is_no_pair_is_refused_with_both_paths(tmp_path: Path, broken: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        open_certificate(config(), tmp_path / name)
    chain, key = tmp_path / "one/tls.crt", tmp_path / "one/tls.key"
    if broken == "missing":
        chain.unlink()
    elif broken == "not PEM":
        chain.write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    elif broken == "key of another":
        key = tmp_path / "two/tls.key"
    else:
        key.write_text("")
    with pytest.raises(ConfigError, match=r"not a usable certificate and key") as caught:
        Certificate(chain, key, self_made=False)
    assert str(chain) in caught.value.message
    assert str(key) in caught.value.message


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        open_certificate(config(), tmp_path / "not there")


def test_a_name_in_another_script(tmp_path: Path) -> None:
    made = open_certificate(config("tv.bücher.example"), tmp_path)
    assert "tv.xn--bcher-kva.example" in made.names
    assert open_certificate(config("tv.bücher.example"), tmp_path).pem == made.pem, "and it is recognised the next time"


def test_it_says_that_it_may_be_trusted_as_a_root(tmp_path: Path) -> None:
    """RFC 5280 section 4.2.1.9; an encoder that imports it refuses one that is no CA."""
    loaded = x509.load_pem_x509_certificate(open_certificate(config(), tmp_path).pem)
    constraints = loaded.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert loaded.not_valid_before_utc < datetime.datetime.now(datetime.UTC)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_certificate(config("a.example"), tmp_path)

    def crash(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(certificate.os, "fsync", crash)
    with pytest.raises(StorageError, match="No space left"):
        open_certificate(config("b.example"), tmp_path)
    monkeypatch.undo()
    assert Certificate(tmp_path / "tls.crt", tmp_path / "tls.key", self_made=True).pem == first.pem


def test_a_crash_between_key_and_certificate_does_not_keep_the_node_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_certificate(config("a.example"), tmp_path)
    write = certificate._write

    def key_only(path: Path, data: bytes, mode: int) -> None:
        if path.name != "tls.key":
            raise KeyboardInterrupt
        write(path, data, mode)

    monkeypatch.setattr(certificate, "_write", key_only)
    with pytest.raises(KeyboardInterrupt):
        open_certificate(config("b.example"), tmp_path)
    monkeypatch.undo()
    made = open_certificate(config("b.example"), tmp_path)
    assert handshake(made.context, trusting(made), "b.example")


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.names"):
        open_certificate(config("\u00fc" * 70 + ".example"), tmp_path)
