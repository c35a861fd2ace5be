from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from medianode import outbound
from medianode.errors import ConfigError, Forbidden, InvalidRequest, PeerError
from medianode.outbound import Outbound

PUBLIC = ["8.8.8.8", "1.1.1.1", "192.0.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "192.168.1.1", "0.0.0.0", "0.1.2.3"),
    *("169.254.169.254", "100.64.0.1", "100.100.100.200", "198.18.0.1", "192.0.0.192", "192.88.99.1", "192.0.2.1"),
    *("224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7"),
    *("4000::1", "1::1", "5f00::1", "not an address", ""),
]


def answers(*found: str) -> outbound.Lookup:
    async def lookup(host: str, port: int) -> Sequence[str]:
        return found

    return lookup


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert Outbound().allows(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_and_special_addresses(address: str) -> None:
    assert not Outbound().allows(address)


def test_the_operator_allows_networks_by_what_they_lead_to() -> None:
    guard = Outbound(["10.1.0.0/16", "fd00::/8", "192.168.0.7"])
    assert guard.allows("10.1.2.3")
    assert guard.allows("::ffff:10.1.2.3")
    assert guard.allows("64:ff9b::a01:203")
    assert guard.allows("fd12::1")
    assert guard.allows("192.168.0.7")
    assert not guard.allows("10.2.0.1")
    assert not guard.allows("192.168.0.8")


@pytest.mark.parametrize("item", ["", "10.0.0.0/33", " hooks.lan", "a/b"])
def test_what_cannot_be_allowed(item: str) -> None:
    with pytest.raises(ConfigError, match=r"outbound\.allow"):
        Outbound([item])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "http:///path",
        "http://",
        "example.com",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://exa mple.com/",
        "http://example.com/\n",
        "http://public.example\\@127.0.0.1/",
        "http://[::1/",
        "http://" + "a" * 2000,
        "javascript:alert(1)",
    ],
)
async def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="url: expected"):
        await Outbound(lookup=answers("8.8.8.8")).check(url, ("http", "https"))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "169.254.169.254", "user:pw@10.0.0.1", "[fe80::1%25eth0]"]
)
async def test_literals_are_looked_at(host: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await Outbound().check(f"https://{host}/hook", ("https",))
    assert raised.value.code == "private-address"


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "127.0.0.1.", "localhost", "0"])
async def test_odd_forms_of_literals_are_looked_at_as_the_system_reads_them(host: str) -> None:
    """Either it resolves to a private address, which is refused, or not at all."""
    with pytest.raises(PeerError) as raised:
        await Outbound().place(host, 80)
    assert raised.value.code in ("private-address", "no-such-host")


async def test_a_name_with_one_private_address_leads_to_the_others_only() -> None:
    place = await Outbound(lookup=answers("10.0.0.1", "8.8.8.8", "::1")).place("mixed.example", 443)
    assert place.addresses == ("8.8.8.8",)


async def test_a_name_that_turns_private() -> None:
    found = [["8.8.8.8"], ["127.0.0.1"]]

    async def lookup(host: str, port: int) -> Sequence[str]:
        return found.pop(0)

    guard = Outbound(lookup=lookup)
    await guard.check("https://rebinds.example/", ("https",))
    with pytest.raises(Forbidden) as raised:
        await guard.place("rebinds.example", 443)
    assert raised.value.code == "private-address"
    assert "127.0.0.1" not in raised.value.message  # nobody reads the names of the inside by us


async def test_allowed_names_whatever_their_case_and_dot() -> None:
    guard = Outbound(["Hooks.LAN."], lookup=answers("10.0.0.1"))
    assert (await guard.place("hooks.lan", 80)).addresses == ("10.0.0.1",)
    assert (await guard.place("HOOKS.lan.", 80)).addresses == ("10.0.0.1",)
    with pytest.raises(Forbidden):
        await guard.place("other.hooks.lan", 80)


async def test_names_that_do_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError) as raised:
        await Outbound(lookup=answers()).place("nowhere.example", 80)
    assert raised.value.code == "no-such-host"

    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    monkeypatch.setattr(outbound, "TIMEOUT", 0.01)
    with pytest.raises(PeerError, match="timeout"):
        await Outbound(lookup=silent).place("silent.example", 80)
    # at registration a name may be one that is only going to exist
    await Outbound(lookup=silent).check("https://silent.example/", ("https",))
    with pytest.raises(PeerError):
        await Outbound().place("a" * 64 + ".example", 80)
    with pytest.raises(PeerError):
        await Outbound().place("nul\0.example", 80)


async def test_one_lookup_of_a_name_at_a_time_and_silent_names_take_no_thread_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = list[str](), threading.Event()

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host != "good.example":
            answer.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(outbound, "TIMEOUT", 0.2)
    guard = Outbound()
    silent = [f"silent{i % 40}.example" for i in range(80)]
    waiting = asyncio.gather(*(guard.place(host, 80) for host in silent), return_exceptions=True)
    await asyncio.sleep(0)
    assert (await guard.place("good.example", 80)).addresses == ("8.8.8.8",)
    assert all(isinstance(e, PeerError) and "timeout" in e.message for e in await waiting)
    assert sorted(asked) == sorted({*silent, "good.example"})
    answer.set()
    async with asyncio.timeout(5):
        while threading.active_count() > 1 and any(t.name == "medianode-lookup" for t in threading.enumerate()):
            await asyncio.sleep(0.01)
    monkeypatch.setattr(outbound, "LOOKUPS", 0)
    with pytest.raises(PeerError, match="0 names are being looked up"):
        await guard.place("silent0.example", 80)
