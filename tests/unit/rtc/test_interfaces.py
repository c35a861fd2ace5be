"""Which addresses are worth telling, and how a candidate is ranked."""

from __future__ import annotations

import socket
import struct

import pytest

from medianode.errors import ConfigError
from medianode.rtc import interfaces
from medianode.rtc.interfaces import Address, candidates, parse_address, public, reachable

LO = Address("lo", "127.0.0.1", loopback=True)
LO6 = Address("lo", "::1", loopback=True)


def test_this_host_has_loopback_and_each_value_is_an_address() -> None:
    found = interfaces.addresses()
    assert any(a.loopback and a.value == "127.0.0.1" for a in found)
    for address in found:
        socket.getaddrinfo(address.value, 1, flags=socket.AI_NUMERICHOST)


def test_without_netlink_routes_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK")
    assert LO.value in [a.value for a in interfaces.addresses()]


def message(family: int, packed: bytes, *, flags: int = 0, kind: int = 1, more: bytes = b"") -> bytes:
    attribute = struct.pack("=HH", 4 + len(packed), kind) + packed
    return struct.pack("=BBBBI", family, 24, 0, 0, socket.if_nametoindex("lo")) + attribute + more + struct.pack("=HHI", 8, 8, flags)


def test_an_address_of_netlink() -> None:
    assert parse_address(message(socket.AF_INET, bytes((192, 0, 2, 1)))) == Address("lo", "192.0.2.1", loopback=True)


def test_of_a_point_to_point_link_ours_is_taken() -> None:
    ours = struct.pack("=HH", 8, 2) + bytes((192, 0, 2, 9))
    found = parse_address(message(socket.AF_INET, bytes((198, 51, 100, 1)), more=ours))
    assert found is not None
    assert found.value == "192.0.2.9"


@pytest.mark.parametrize("flags", [0x40, 0x08])
def test_tentative_and_doubled_addresses_are_not_usable(flags: int) -> None:
    assert parse_address(message(socket.AF_INET6, bytes(15) + b"\1", flags=flags)) is None


def test_deprecated_ones_are_told_as_such() -> None:
    found = parse_address(message(socket.AF_INET6, bytes(15) + b"\1", flags=0x20))
    assert found is not None
    assert found.deprecated


def test_an_interface_that_went_away() -> None:
    raw = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 2**31 - 1) + struct.pack("=HH", 8, 1) + bytes(4)
    assert parse_address(raw) is None


def test_loopback_only_when_asked_or_alone() -> None:
    lan = Address("eth0", "192.0.2.1")
    assert reachable([LO, LO6, lan], ipv6=True, loopback=False) == ["192.0.2.1"]
    assert reachable([LO, LO6, lan], ipv6=True, loopback=True) == ["192.0.2.1", "127.0.0.1", "::1"]
    assert reachable([LO], ipv6=True, loopback=False) == ["127.0.0.1"]


def test_container_bridges_and_link_local_only_where_there_is_nothing_better() -> None:
    docker, apipa = Address("docker0", "172.17.0.1"), Address("eth1", "169.254.3.4")
    bridge = Address("br-0123456789ab", "172.18.0.1")
    lan, lan6 = Address("br-lan", "192.168.1.2"), Address("eth0", "2001:db8::2")
    assert reachable([docker, bridge, apipa, lan6, lan], ipv6=True, loopback=False) == ["192.168.1.2", "2001:db8::2"]
    assert reachable([docker, apipa], ipv6=True, loopback=False) == ["172.17.0.1", "169.254.3.4"]


def test_ipv6_link_local_never_and_ipv6_only_where_the_socket_speaks_it() -> None:
    found = [Address("eth0", "fe80::1"), Address("eth0", "2001:db8::2"), Address("eth0", "2001:db8::3", deprecated=True)]
    assert reachable(found, ipv6=True, loopback=False) == ["2001:db8::2"]
    assert reachable([*found, LO], ipv6=False, loopback=False) == ["127.0.0.1"]
    assert reachable([*found, Address("eth0", "192.0.2.1")], ipv4=False, ipv6=True, loopback=False) == ["2001:db8::2"]


def test_their_number_is_bounded() -> None:
    many = [Address(f"eth{i}", f"10.0.0.{i}") for i in range(100)]
    assert len(reachable(many, ipv6=True, loopback=False)) == interfaces.MAX_ADDRESSES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:443", ("192.0.2.1", 443)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
    ],
)
def test_public_addresses(value: str, expected: tuple[str, int]) -> None:
    assert public([value]) == (expected,)


@pytest.mark.parametrize("value", ["", "example.com", "192.0.2.1:", "192.0.2.1:70000", "192.0.2.1:-1", "[::1", "1.2.3:80", "192.0.2.1:٣"])
def test_what_is_no_public_address(value: str) -> None:
    with pytest.raises(ConfigError, match="public_addresses"):
        public([value])


def test_udp_is_preferred_to_tcp_and_each_priority_is_its_own() -> None:
    made = candidates([("192.0.2.1", 8189, 8189), ("2001:db8::1", 8189, 8189), ("198.51.100.1", 443, 0)])
    assert [(c.address, c.port, c.protocol) for c in made] == [
        ("192.0.2.1", 8189, "udp"),
        ("2001:db8::1", 8189, "udp"),
        ("198.51.100.1", 443, "udp"),
        ("192.0.2.1", 8189, "tcp"),
        ("2001:db8::1", 8189, "tcp"),
    ]
    assert made[0].priority == 2_130_706_431
    assert [c.priority for c in made] == sorted({c.priority for c in made}, reverse=True)
    assert len({c.foundation for c in made}) == len(made)


def test_a_place_named_twice_is_told_once() -> None:
    assert len(candidates([("192.0.2.1", 8189, 0)] * 2)) == 1
