"""Which addresses the endpoint tells peers, and what it counts."""

from __future__ import annotations

import pytest
from harness.endpoint import CERTIFICATE, make
from harness.webrtc import Recorder, TestPeer


def test_candidates_of_one_host() -> None:
    node = make()
    node.open()
    assert [(c.address, c.port, c.protocol) for c in node.candidates()] == [
        ("127.0.0.1", node.udp_port, "udp"),
        ("127.0.0.1", node.tcp_port, "tcp"),
    ]
    node.shut()


def test_candidates_of_all_interfaces_and_public_ones() -> None:
    node = make(listen=":0", tcp_listen="", public_addresses=("203.0.113.9", "[2001:db8::9]:443"))
    node.open()
    asked = [(c.address, c.port) for c in node.candidates(loopback=True)]
    assert ("127.0.0.1", node.udp_port) in asked
    assert asked[-2:] == [("203.0.113.9", node.udp_port), ("2001:db8::9", 443)]
    assert {c.protocol for c in node.candidates()} == {"udp"}
    node.shut()


@pytest.mark.parametrize(("listen", "ipv4", "ipv6"), [(":0", True, True), ("0.0.0.0:0", True, False), ("[::]:0", True, True)])
def test_each_way_to_say_all_interfaces(listen: str, ipv4: bool, ipv6: bool) -> None:
    node = make(listen=listen, tcp_listen="")
    node.open()
    told = [c.address for c in node.candidates(loopback=True)]
    assert ("127.0.0.1" in told) is ipv4
    assert ("::1" in told) is ipv6
    assert "::" not in told
    assert node.datagrams.wildcard
    node.shut()


def test_tcp_on_one_family_is_told_for_that_one_only() -> None:
    for listen, address in (("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1")):
        node = make(listen=":0", tcp_listen=listen)
        node.open()
        told = [c.address for c in node.candidates(loopback=True) if c.protocol == "tcp"]
        assert {":" in a for a in told} == {":" in address}
        assert address in told
        node.shut()


def test_a_public_port_is_told_for_tcp_too_where_tcp_is_served() -> None:
    node = make(public_addresses=("203.0.113.9:443",))
    node.open()
    found = [(c.port, c.protocol) for c in node.candidates() if c.address == "203.0.113.9"]
    assert found == [(443, "udp"), (443, "tcp")]
    node.shut()


def test_the_metrics_count_peers_by_state() -> None:
    node = make()
    node.open()
    node.create(TestPeer(CERTIFICATE).transport, Recorder())
    assert node._count() == [(("new", "udp"), 1)]
    assert node._counted("received") == [((), 0.0)]
    node.shut()
    assert node._counted("received") == []
