"""The client's side of an RTSP connection: requests numbered, signed and answered. Sans-IO; what to ask for is its owner's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medianode.errors import LimitExceeded, ProtocolError
from medianode.protocols.rtsp.auth import Authentication
from medianode.protocols.rtsp.messages import Frame, Response, ServerRequest, Splitter, build_request, parse_parameters

AGENT = "medianode"
LEAST_TIMEOUT = 10.0
DEFAULT_TIMEOUT = 60.0
"""Of a session, seconds (RFC 2326 12.37)."""
MAX_AHEAD = 32
"""Requests that wait for their answers."""
MAX_FRAME_BYTES = 8 << 20
"""Of frames that nobody has taken yet: some servers send media before they have answered PLAY, and some before they are asked."""


class _Asked:
    """`number`: what its owner knows it by; after a challenge it goes out again under another."""

    __slots__ = ("headers", "method", "number", "signed", "url")

    def __init__(self, method: str, url: str, headers: Mapping[str, str], number: int) -> None:
        self.number = number
        self.method = method
        self.url = url
        self.headers = dict(headers)
        self.signed = 0


class ClientConnection:
    """`request` gives a number; its final Response comes out of `responses` by that number, after what challenges there were.

    `session` and `session_timeout` are as the server last told; `public`: the methods it says it has.
    """

    def __init__(self, user: str, password: str, nonce: Callable[[], str]) -> None:
        self._authentication = Authentication(user, password, nonce)
        self._splitter = Splitter()
        self._asked: dict[int, _Asked] = {}
        self._sequence = 0
        self._out: list[bytes] = []
        self.responses: dict[int, Response] = {}
        self.frames: list[Frame] = []
        self._frame_bytes = 0
        self.session = ""
        self.session_timeout = DEFAULT_TIMEOUT
        self.public: frozenset[str] = frozenset()
        self.says_goodbye = False

    def request(self, method: str, url: str, headers: Mapping[str, str] | None = None) -> int:
        """Raises ProtocolError where the server has left MAX_AHEAD unanswered."""
        if len(self._asked) >= MAX_AHEAD:
            raise ProtocolError(f"RTSP: expected answers, got none to the last {MAX_AHEAD} requests")
        self._send(_Asked(method, url, headers or {}, self._sequence + 1))
        return self._sequence

    def receive_data(self, data: bytes) -> None:
        """Raises ProtocolError, LimitExceeded."""
        for message in self._splitter.feed(data):
            if type(message) is Frame:
                self.frames.append(message)
                self._frame_bytes += len(message.data)
            elif type(message) is Response:
                self._response(message)
            elif type(message) is ServerRequest:
                self._requested(message)
        if self._frame_bytes > MAX_FRAME_BYTES:
            raise LimitExceeded(f"RTSP: expected an answer, got {MAX_FRAME_BYTES} bytes of frames before it")

    def forget(self) -> None:
        """Wait for no answers any more: some cameras leave signs of life unanswered while they play."""
        self._asked.clear()

    def take_frames(self) -> list[Frame]:
        frames, self.frames, self._frame_bytes = self.frames, [], 0
        return frames

    def data_to_send(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def send_frame(self, channel: int, data: bytes) -> None:
        """Interleaved: receiver reports."""
        self._out.append(bytes((0x24, channel)) + len(data).to_bytes(2, "big") + data)

    def _send(self, asked: _Asked) -> None:
        self._sequence += 1
        headers = {"CSeq": str(self._sequence), "User-Agent": AGENT, **asked.headers}
        if self.session:
            headers["Session"] = self.session
        signature = self._authentication.header(asked.method, asked.url)
        if signature is not None:
            headers["Authorization"] = signature
        self._asked[self._sequence] = asked
        self._out.append(build_request(asked.method, asked.url, headers))

    def _response(self, response: Response) -> None:
        number = response.header("cseq").strip()
        key = int(number) if number.isascii() and number.isdigit() and len(number) < 12 else -1
        if key not in self._asked:
            # some cameras leave it out, or begin at their own
            if len(self._asked) != 1:
                return
            key = next(iter(self._asked))
        if response.status < 200:
            return
        asked = self._asked.pop(key)
        if session := response.header("session"):
            self._session(session)
        if public := response.header("public"):
            self.public = frozenset(word.strip().upper() for word in public.split(","))
        if response.status == 401 and asked.signed < 2 and self._authentication.challenged(response.headers.get("www-authenticate", [])):
            asked.signed += 1
            self._send(asked)
            return
        self.responses[asked.number] = response

    def _session(self, text: str) -> None:
        name, _, rest = text.partition(";")
        self.session = name.strip()
        timeout = parse_parameters(rest).get("timeout", "")
        if timeout.isascii() and timeout.isdigit() and len(timeout) < 9:
            self.session_timeout = max(float(timeout), LEAST_TIMEOUT)

    def _requested(self, request: ServerRequest) -> None:
        if request.method in ("TEARDOWN", "REDIRECT"):
            self.says_goodbye = True
        sequence = request.headers.get("cseq", ["0"])[0]
        if sequence.isascii() and sequence.isdigit() and len(sequence) < 12 and len(self._out) < MAX_AHEAD:
            self._out.append(f"RTSP/1.0 200 OK\r\nCSeq: {sequence}\r\n\r\n".encode())
