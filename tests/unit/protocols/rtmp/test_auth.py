from __future__ import annotations

import pytest

from medianode.protocols.rtmp import ChallengeReceived, ClientConnection, Connect, Rejected, ServerConnection, auth
from medianode.protocols.rtmp.messages import parse_query, split_name

SECRET = b"k" * 32


def login(challenge: auth.Challenge, user: str, password: str, client_challenge: str = "0badcafe") -> dict[str, str]:
    query = auth.answer_rejection(challenge.description, user, password, client_challenge)
    assert query is not None
    return parse_query(query)


def test_what_ffmpeg_sent_is_what_we_compute() -> None:
    """Seen from FFmpeg 9.0.2 with rtmp://bob:pa+ss@host: opaque and client challenge as they came."""
    opaque = "28ed95d90f5d7a16.3e8.5N_TUzAd-6-GosUX"
    query = {"user": "bob", "challenge": "8e721a7b", "response": "hZm7OZyhEH7xh7LWM3YI7g==", "opaque": opaque}
    assert auth.verify(query, "pa+ss", b"s" * 32, 1000)
    assert not auth.verify(query, "pa+sS", b"s" * 32, 1000)


def test_the_right_password_is_let_in_until_the_expiry() -> None:
    challenge = auth.make_challenge("bob", SECRET, b"nonce", 1000)
    query = login(challenge, "bob", "pässwörd")
    assert auth.is_adobe(query)
    assert auth.verify(query, "pässwörd", SECRET, 1000)
    assert not auth.verify(query, "pässwörd", SECRET, 1001)
    assert not auth.verify(query, "password", SECRET, 1000)
    assert not auth.verify(query, "pässwörd", b"another secret", 1000)


@pytest.mark.parametrize("field", ["user", "challenge", "response", "opaque"])
@pytest.mark.parametrize("value", ["", "x", ".", "..", "a.zz.b", "\ud800", "é" * 1000])
def test_a_spoilt_field_is_refused_without_a_crash(field: str, value: str) -> None:
    query = login(auth.make_challenge("bob", SECRET, b"nonce", 1000), "bob", "secret")
    assert auth.verify(query, "secret", SECRET, 0)
    assert not auth.verify(query | {field: value}, "secret", SECRET, 0)
    del query[field]
    assert not auth.verify(query, "secret", SECRET, 0)


def test_the_expiry_cannot_be_stretched() -> None:
    challenge = auth.make_challenge("bob", SECRET, b"nonce", 0x10)
    stretched = challenge._replace(opaque=challenge.opaque.replace(".10.", ".ffff."))
    assert stretched != challenge
    assert not auth.verify(login(stretched, "bob", "secret"), "secret", SECRET, 0x20)


def test_challenge_stands_in_for_an_empty_opaque() -> None:
    with_opaque = auth.respond("u", "p", "s", "c", "o", "x")
    assert auth.respond("u", "p", "s", "o", "", "x") == with_opaque
    assert auth.respond("u", "p", "s", "c", "", "x") != with_opaque
    assert auth.answer_rejection("[ authmod=adobe ] : ?reason=needauth&user=u&salt=s&challenge=c", "u", "p", "x") == (
        f"authmod=adobe&user=u&challenge=x&response={auth.respond('u', 'p', 's', 'c', '', 'x')}"
    )


@pytest.mark.parametrize("description", ["", "nope", auth.AUTH_FAILED, auth.NO_SUCH_USER, "authmod=llnw ?reason=needauth&nonce=1"])
def test_final_refusals_are_not_answered(description: str) -> None:
    assert auth.answer_rejection(description, "u", "p", "x") is None


def test_queries_keep_plus_and_the_first_of_two() -> None:
    assert parse_query("a=1+2&b=%2B&a=3&&=x&c") == {"a": "1+2", "b": "+", "c": ""}
    assert split_name("live?user=a?b=c") == ("live", {"user": "a?b=c"})


def attempt(client: ClientConnection) -> ChallengeReceived | Rejected | str:
    server = ServerConnection(random=bytes)
    for _ in range(10):
        server.receive_data(client.data_to_send())
        for event in server.events():
            assert isinstance(event, Connect)
            query = event.query
            if not auth.is_adobe(query):
                server.reject_connect(description=auth.NEED_AUTH)
            elif "response" not in query:
                server.reject_connect(description=auth.make_challenge(query["user"], SECRET, b"n", 10).description)
            elif auth.verify(query, "secret", SECRET, 5):
                return event.app
            else:
                server.reject_connect(description=auth.AUTH_FAILED)
        client.receive_data(server.data_to_send())
        for answer in client.events():
            assert isinstance(answer, ChallengeReceived | Rejected)
            return answer
    raise AssertionError("no answer")


def test_our_client_gets_in_at_the_third_connection() -> None:
    query = ""
    for _ in range(2):
        answer = attempt(ClientConnection("live", "rtmp://h/live", random=bytes, user="bob", password="secret", query=query))
        assert isinstance(answer, ChallengeReceived)
        query = answer.query
    assert attempt(ClientConnection("live", "rtmp://h/live", random=bytes, user="bob", password="secret", query=query)) == "live"


def test_our_client_gives_up() -> None:
    assert isinstance(attempt(ClientConnection("live", "rtmp://h/live", random=bytes)), Rejected)
    query = "authmod=adobe&user=bob&challenge=00&response=wrong&opaque=1.1.1"
    answer = attempt(ClientConnection("live", "rtmp://h/live", random=bytes, user="bob", password="secret", query=query))
    assert answer == Rejected("NetConnection.Connect.Rejected", auth.AUTH_FAILED)
