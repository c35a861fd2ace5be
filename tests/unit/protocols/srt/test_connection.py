"""What goes back to a sender: ACK, NAK, keep-alive, answers to new keys; and what is not believed."""

from __future__ import annotations

import struct

from harness.transport import unpack_losses

from medianode.ingress.srt_cipher import AesCiphers
from medianode.protocols.srt.connection import Connection
from medianode.protocols.srt.keys import BAD_SECRET, EVEN, ODD, KeyMaterial, Keys, wrapping_key
from medianode.protocols.srt.packet import HEADER, ControlType, ExtensionType, Header, control, parse_header
from medianode.protocols.srt.receiver import Lost

SECRET = "a secret of ten and more"
SALT = bytes(range(16))


def data(sequence: int, payload: bytes = b"media", which: int = 0) -> bytes:
    return HEADER.pack(sequence, 0xC0000000 | which << 27 | 1, 0, 5) + payload


def connection(keys: Keys | None = None) -> Connection:
    return Connection(5, 6, 100, 0.12, 64, keys, 0.0)


def sent(line: Connection) -> list[tuple[Header, bytes]]:
    found = []
    for datagram in line.datagrams():
        header = parse_header(datagram)
        assert header is not None
        assert header.socket_id == 6
        found.append((header, datagram[16:]))
    return found


def test_packets_are_acknowledged_and_the_answer_measures_the_way() -> None:
    line = connection()
    line.receive(data(100), 0.02)
    line.receive(data(101), 0.02)
    line.tick(0.02)
    assert line.media() == [b"media", b"media"]
    [(ack, body)] = sent(line)
    assert (ack.kind, ack.word, struct.unpack_from(">I", body)[0], len(body)) == (ControlType.ACK, 1, 102, 28)
    line.receive(control(ControlType.ACKACK, 5, 0, word=1), 0.07)
    assert abs(line.rtt - 0.05) < 1e-9
    line.tick(0.08)
    assert sent(line) == []
    line.tick(1.05)
    assert [header.kind for header, _ in sent(line)] == [ControlType.KEEPALIVE]


def test_an_acknowledgement_that_nobody_confirms_is_said_again() -> None:
    line = connection()
    line.receive(data(100), 0.0)
    line.tick(0.02)
    line.tick(0.15)
    assert [header.word for header, _ in sent(line)] == [1, 2]


def test_a_hole_is_asked_for_and_told_when_it_is_too_late() -> None:
    line = connection()
    line.receive(data(100), 0.0)
    line.receive(data(103), 0.0)
    line.tick(0.0)
    nak = next(body for header, body in sent(line) if header.kind == ControlType.NAK)
    assert unpack_losses(nak) == [(101, 102)]
    line.tick(0.12)
    assert line.media() == [b"media", Lost(2), b"media"]


def test_who_sends_what_cannot_be_taken_is_silent() -> None:
    line = connection()
    line.receive(data(100), 1.0)
    line.receive(data(100), 2.0)  # late
    line.receive(data(900), 3.0)  # beyond
    assert (line.media_at, line.nbytes) == (1.0, len(b"media"))


def test_the_sender_says_goodbye() -> None:
    line = connection()
    line.receive(control(ControlType.SHUTDOWN, 5, 0), 0.0)
    assert line.closed


def material(flags: int, *keys: bytes, secret: str = SECRET) -> bytes:
    wrapped = AesCiphers().wrap(wrapping_key(secret, SALT, 16), b"".join(keys))
    return KeyMaterial(flags, 16, SALT, wrapped).packed()


def test_keys_are_renewed_in_band_and_only_under_the_passphrase() -> None:
    keys = Keys(SECRET, AesCiphers())
    assert keys.take(material(EVEN, b"e" * 16))
    line = connection(keys)
    odd = Keys(SECRET, AesCiphers())
    assert odd.take(material(ODD, b"o" * 16))
    line.receive(data(100, keys.decrypt(EVEN, 100, b"one") or b"", EVEN), 0.0)
    line.receive(data(101, odd.decrypt(ODD, 101, b"two") or b"", ODD), 0.0)
    assert (line.media(), line.undecryptable) == ([b"one"], 1)

    wrong = control(ControlType.USER, 5, 0, subtype=ExtensionType.KMREQ, body=material(ODD, b"x" * 16, secret="not the secret"))
    line.receive(wrong, 0.0)
    right = material(EVEN | ODD, b"e" * 16, b"o" * 16)
    renewed = control(ControlType.USER, 5, 0, subtype=ExtensionType.KMREQ, body=right)
    line.receive(renewed, 0.05)  # one at a time: each costs a derived key
    line.receive(renewed, 0.2)
    line.receive(renewed, 0.21)
    answers = [body for header, body in sent(line) if (header.kind, header.subtype) == (ControlType.USER, ExtensionType.KMRSP)]
    assert answers == [struct.pack(">I", BAD_SECRET), right, right]
    line.receive(data(101, odd.decrypt(ODD, 101, b"two") or b"", ODD), 0.3)
    assert line.media() == [b"two"]


def test_what_is_not_encrypted_as_agreed_is_not_taken() -> None:
    keys = Keys(SECRET, AesCiphers())
    keys.take(material(EVEN, b"e" * 16))
    line = connection(keys)
    line.receive(data(100), 0.0)
    plain = connection()
    plain.receive(data(100, which=EVEN), 0.0)
    plain.receive(control(ControlType.USER, 5, 0, subtype=ExtensionType.KMREQ, body=material(EVEN, b"e" * 16)), 0.0)
    assert (line.media(), line.undecryptable, plain.media(), plain.undecryptable) == ([], 1, [], 1)


def test_garbage_behind_a_good_header_is_passed_over() -> None:
    line = connection()
    for kind in range(0, 0x7FFF, 97):
        line.receive(control(kind, 5, 0, subtype=3, body=b"\xff" * 7), 0.0)
    line.tick(0.0)
    assert (line.closed, line.media(), line.datagrams()) == (False, [], [])
