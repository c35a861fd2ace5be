"""The UDP socket: batches and the plain way alike, who sent it, where it was sent to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from medianode.rtc import udp
from medianode.rtc.udp import DROPPED, UNSENT, UdpSocket, pack, plain, text, unpack


class Got:
    def __init__(self) -> None:
        self.media: list[tuple[bytes, bytes]] = []
        self.other: list[tuple[bytes, bytes, bytes]] = []

    def attach(self, sock: UdpSocket) -> None:
        sock.attach(lambda raw, data: self.media.append((raw, data)), lambda raw, data, control: self.other.append((raw, data, control)))


@pytest.fixture(params=["recvmmsg", "recvmsg"])
def port(request: pytest.FixtureRequest) -> Iterator[UdpSocket]:
    sock = UdpSocket(None, 0)
    if request.param == "recvmsg":
        sock._batch = None
    yield sock
    sock.close()


def client(address: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((address, 0))
    return sock


def test_first_bytes_tell_them_apart(port: UdpSocket) -> None:
    got = Got()
    got.attach(port)
    garbage = DROPPED.labels("garbage").value
    with client() as peer:
        for datagram in (b"\x00stun", b"\x16dtls", b"\x80rtp", b"\xbfrtcp", b"\x40turn", b"\xc0", b"", b"\x80" * 3000):
            peer.sendto(datagram, ("127.0.0.1", port.port))
        port.read()
        source = pack(port.family, ("::ffff:127.0.0.1", peer.getsockname()[1], 0, 0))
    assert got.media == [(source, b"\x80rtp"), (source, b"\xbfrtcp")]
    assert [(raw, data) for raw, data, _ in got.other] == [(source, b"\x00stun"), (source, b"\x16dtls")]
    assert DROPPED.labels("garbage").value == garbage + 4
    assert port.received == 8


def test_a_turn_takes_a_batch_at_most(port: UdpSocket) -> None:
    got = Got()
    got.attach(port)
    with client() as peer:
        for n in range(udp.BATCH + 6):
            peer.sendto(b"\x80%03d" % n, ("127.0.0.1", port.port))
    port.read()
    assert len(got.media) == udp.BATCH
    port.read()
    port.read()
    assert [data for _, data in got.media] == [b"\x80%03d" % n for n in range(udp.BATCH + 6)]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.7", "::1"])
def test_the_answer_leaves_from_the_address_that_was_asked(port: UdpSocket, address: str) -> None:
    got = Got()
    got.attach(port)
    with client("::1" if ":" in address else "127.0.0.1") as peer:
        peer.sendto(b"\x00", (address, port.port))
        port.read()
        (raw, _, control), *_ = got.other
        source = port.source(raw, control)
        assert plain(source.address) == peer.getsockname()[:2]
        port.send(b"answer", source.address, source.ancillary)
        assert peer.recvfrom(100)[1][:2] == (address, port.port)
        needed = port.needed(source)
        assert bool(needed) is (address == "127.0.0.7")
        port.send(b"again", source.address, needed)
        assert peer.recvfrom(100)[1][:2] == (address, port.port)


def test_ipv4_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6."""
    opened = udp._open

    def without(family: socket.AddressFamily, host: str, number: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return opened(family, host, number)

    monkeypatch.setattr(udp, "_open", without)
    for batch in (True, False):
        sock = UdpSocket(None, 0)
        if not batch:
            sock._batch = None
        got = Got()
        got.attach(sock)
        with client() as peer:
            peer.sendto(b"\x00", ("127.0.0.9", sock.port))
            sock.read()
            (raw, _, control), *_ = got.other
            source = sock.source(raw, control)
            assert source.address == peer.getsockname()
            assert sock.needed(source) == source.ancillary != []
            sock.send(b"answer", source.address, source.ancillary)
            assert peer.recvfrom(100)[1] == ("127.0.0.9", sock.port)
        sock.close()


def test_bound_to_a_host_there_is_nothing_to_ask() -> None:
    sock = UdpSocket("127.0.0.1", 0)
    got = Got()
    got.attach(sock)
    with client() as peer:
        peer.sendto(b"\x00", ("127.0.0.1", sock.port))
        sock.read()
    (raw, _, control), *_ = got.other
    assert sock.source(raw, control).ancillary == []
    sock.close()


def test_a_taken_port_is_told(port: UdpSocket) -> None:
    with pytest.raises(OSError, match="in use"):
        UdpSocket(None, port.port)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, ("192.0.2.1", 5)), (socket.AF_INET6, ("2001:db8::1", 65_535, 0, 0))])
def test_raw_addresses(family: socket.AddressFamily, address: tuple[str, int]) -> None:
    assert unpack(pack(family, address)) == address


def test_addresses_as_people_write_them() -> None:
    assert text(("::ffff:192.0.2.1", 5, 0, 0)) == text(("192.0.2.1", 5)) == "192.0.2.1:5"
    assert text(("2001:db8::1", 5, 0, 0)) == "[2001:db8::1]:5"


def test_what_the_kernel_does_not_take_is_counted(port: UdpSocket) -> None:
    before = UNSENT.labels("emsgsize").value
    port.send(bytes(70_000), ("::ffff:127.0.0.1", 9, 0, 0), [])
    assert UNSENT.labels("emsgsize").value == before + 1


def test_drops_of_the_kernel_are_seen(port: UdpSocket) -> None:
    assert port.kernel_drops == 0
    port.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with client() as peer:
        for _ in range(200):
            peer.sendto(bytes(1200), ("127.0.0.1", port.port))
    assert port.kernel_drops > 0


def test_buffers_are_large_or_told_to_be_small(port: UdpSocket) -> None:
    small = dict(udp.small_buffers(port.buffers))
    for which, name in (("receive", "net.core.rmem_max"), ("send", "net.core.wmem_max")):
        assert (port.buffers[which] >= udp.ENOUGH_BUFFER) != (name in small)
    assert udp.small_buffers({"receive": 212_992, "send": 8 << 20}) == [("net.core.rmem_max", 212_992)]
    assert set(udp.allowed_buffers()) == {"receive", "send"}


def test_before_serving_datagrams_are_counted() -> None:
    sock = UdpSocket("127.0.0.1", 0)
    before = DROPPED.labels("not-serving").value
    with client() as peer:
        peer.sendto(b"\x80", ("127.0.0.1", sock.port))
        sock.read()
    sock.close()
    assert DROPPED.labels("not-serving").value == before + 1


def test_a_socket_that_fails_is_counted_by_whichever_way_it_is_read(port: UdpSocket) -> None:
    port.close()
    before = DROPPED.labels("ebadf").value
    port.read()
    assert port.take(lambda *_: None) == 0
    assert DROPPED.labels("ebadf").value == before + 2
