"""The node's TLS certificate: the operator's, else one made at the first start with the configured and local names."""

from __future__ import annotations

import datetime
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from medianode import clock
from medianode.config import Config
from medianode.errors import ConfigError, StorageError

log = logging.getLogger("medianode.certificate")
LIFETIME_DAYS = 3650
RENEW_DAYS = 30


class Certificate:
    """`pem` is the public chain, safe to hand out; `context` is for servers (TLS 1.2 and later)."""

    def __init__(self, chain: Path, key: Path, *, self_made: bool) -> None:
        self.self_made = self_made
        try:
            self.pem = chain.read_bytes()
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.minimum_version = ssl.TLSVersion.TLSv1_2
            self.context.load_cert_chain(chain, key)
            self._x509 = x509.load_pem_x509_certificate(self.pem)
        except (OSError, ssl.SSLError, ValueError) as e:
            raise ConfigError(f"tls: {chain} with {key}: not a usable certificate and key: {e}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """DNS names and addresses that the certificate is good for."""
        try:
            names = self._x509.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return ()
        return tuple(str(n.value) for n in names)

    @property
    def days_left(self) -> float:
        return (self._x509.not_valid_after_utc.timestamp() - clock.wallclock()) / 86_400


def open_certificate(config: Config, data_dir: Path) -> Certificate:
    """The configured pair, else the self-made one under `data_dir`, renewed when it is near its end or lacks a configured name."""
    if config.tls.certificate:
        return Certificate(Path(config.tls.certificate), Path(config.tls.key), self_made=False)
    chain, key = data_dir / "tls.crt", data_dir / "tls.key"
    wanted = _wanted_names(config)
    if chain.exists() and key.exists():
        try:
            found = Certificate(chain, key, self_made=True)
            if found.days_left > RENEW_DAYS and set(_configured_names(config)) <= set(found.names):
                return found
        except ConfigError as e:  # a crash between the two writes of a renewal leaves a new key beside an old certificate
            log.warning("the self-made certificate is made anew: %s", e)
    _make(wanted, chain, key)
    return Certificate(chain, key, self_made=True)


def _configured_names(config: Config) -> list[str]:
    names = [_canonical(n) for n in config.tls.names]
    if config.public_url and (host := urlsplit(config.public_url).hostname):
        names.append(_canonical(host))
    return list(dict.fromkeys(names))


def _wanted_names(config: Config) -> list[str]:
    host = socket.gethostname()
    names = [*_configured_names(config), host, f"{host.partition('.')[0]}.local", "localhost", "127.0.0.1", "::1", *_local_addresses()]
    return list(dict.fromkeys(n for n in names if n))


def _canonical(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass
    try:
        return name.lower() if name.isascii() else name.lower().encode("idna").decode("ascii")  # as the certificate will have it
    except UnicodeError as e:
        raise ConfigError(f"tls.names: expected a host name, got {name!r}: {e}") from None


def _local_addresses() -> Iterable[str]:
    """Addresses that this host would send from; nothing is sent, a UDP connect only asks the routing table."""
    for family, probe in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((probe, 9))
                yield str(ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]))
        except OSError:
            continue  # no route for this family


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _make(names: list[str], chain: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    start = clock.utc(clock.wallclock()) - datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=LIFETIME_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
        # a certificate that clients import as their own trust anchor has to say that it is one
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key, pem, 0o600)
    _write(chain, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Atomically: a crash leaves the old file or the new one."""
    fresh = path.with_suffix(path.suffix + ".new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as e:
        raise StorageError(f"{path}: cannot be written: {e.strerror or e}") from None
