"""What speaks at an address, found out by speaking to it: HTTP/1.1 (REST), HTTP/2 (gRPC), TLS, something else, nobody.

No client library says this: they report that their own protocol went wrong. The first bytes that come back to the first
bytes of each protocol tell it: of HTTP/1.1 the status line (RFC 9112, 4), of HTTP/2 the SETTINGS frame that each side
begins with (RFC 9113, 3.4), of TLS an alert record (RFC 8446, 6).
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from tfship.client.targets.connection import Tls
from tfship.client.targets.tls import context
from tfship.train.common.errors import UsageError

__all__ = ["GRPC", "REST", "Heard", "address", "listen"]

REST, GRPC = "REST", "gRPC"

_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_GREETINGS = {
    REST: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    GRPC: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS,
}
_ALPN = {REST: ["http/1.1"], GRPC: ["h2"]}
# As far as anything is read that tells protocols apart.
_ENOUGH = 64


@dataclass(frozen=True)
class Heard:
    """What was heard at an address.

    `what` is REST or GRPC where one of these speaks as it was spoken to, or else one of: "unknown host", "refused",
    "unreachable" (no connection), "silent" (a connection, and then nothing), "closed" (a connection that ends at once),
    "other" (some other protocol), "tls" (spoken to in plain text, it expects TLS), "plain" (the reverse), "untrusted"
    (a certificate that isn't to be trusted), "certificate" (it ends TLS where a client's would be due), "broken tls".
    `detail` says more.
    """

    what: str
    detail: str = ""


def address(server: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[::1]:port`. Raises UsageError for anything else."""
    try:
        parts = urlsplit(f"//{server}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != server or parts.username is not None:
        raise UsageError(f"{server!r}: not an address; expected host:port, such as localhost:8501")
    return host, port


def listen(server: str, tls: Tls | None, protocol: str, timeout: float) -> Heard:
    """Say `protocol`'s first words at `server`, then others, until it is clear who is there.

    `timeout` is in seconds for each of the few connections that it takes; who keeps silent gets two.
    Raises UsageError for an address or certificates that can't be used.
    """
    host, port = address(server)
    caller = _Caller(host, port, timeout)
    first, second = (REST, GRPC) if protocol == REST else (GRPC, REST)
    try:
        if tls is None:
            return _plainly(caller, first, second)
        return _encrypted(caller, context(tls), first, second)
    except (socket.gaierror, UnicodeError) as error:
        return Heard("unknown host", getattr(error, "strerror", "") or "no name that a host can have")
    except ConnectionRefusedError:
        return Heard("refused")
    except OSError as error:
        return Heard("unreachable", error.strerror or str(error))


@dataclass(frozen=True)
class _Caller:
    host: str
    port: int
    timeout: float

    def ask(self, greeting: bytes, tls: ssl.SSLContext | None = None) -> bytes | None:
        """Return the first bytes of the answer, b"" where the connection ended, None where nothing came in time.

        Raises OSError where there is no connection, ssl.SSLError where there is no encryption.
        """
        end = time.monotonic() + self.timeout
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.create_connection((self.host, self.port), self.timeout))
            if tls is not None:
                # Like the rest of an answer: who is silent, or hangs up, in the middle of it, does that.
                with _hanging_up() as how:
                    wrapped = tls.wrap_socket(connection, server_hostname=self.host)
                    connection = stack.enter_context(wrapped)
                if how:
                    return how[0]
            return _answer(connection, greeting, end)


@contextlib.contextmanager
def _hanging_up() -> Iterator[list[bytes | None]]:
    how: list[bytes | None] = []
    try:
        yield how
    except TimeoutError:
        how.append(None)
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
        how.append(b"")


def _answer(connection: socket.socket, greeting: bytes, end: float) -> bytes | None:
    answer = b""
    with _hanging_up() as how:
        connection.sendall(greeting)
        while len(answer) < _ENOUGH and (left := end - time.monotonic()) > 0:
            connection.settimeout(left)
            part = connection.recv(_ENOUGH)
            if not part:
                return answer
            answer += part
            if _protocol(answer) in (REST, GRPC, "tls"):
                return answer
    return answer or (how[0] if how else None)


def _protocol(answer: bytes) -> str:
    if answer.startswith(b"HTTP/1."):
        return REST
    # A frame: 3 bytes of length, its type (SETTINGS), flags, stream 0.
    if len(answer) >= 9 and answer[3] == 4 and int.from_bytes(answer[:3]) % 6 == 0 and not any(answer[5:9]):
        return GRPC
    if answer[:2] == b"\x15\x03":
        return "tls"
    return "other"


def _plainly(caller: _Caller, first: str, second: str) -> Heard:
    answer = caller.ask(_GREETINGS[first])
    if answer:
        return _heard(answer)
    if _speaks_tls(caller):
        return Heard("tls")
    if answer is None:
        return Heard("silent")
    return _or_else(caller.ask(_GREETINGS[second]), "closed")


def _encrypted(caller: _Caller, trusted: ssl.SSLContext, first: str, second: str) -> Heard:
    answer: bytes | None = b""
    try:
        for protocol in (first, second):
            trusted.set_alpn_protocols(_ALPN[protocol])
            answer = caller.ask(_GREETINGS[protocol], trusted)
            if answer and (heard := _protocol(answer)) in (REST, GRPC):
                return Heard(heard)
            if answer is None:
                break
    except ssl.SSLCertVerificationError as error:
        return Heard("untrusted", error.verify_message)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "certificate required" in reason or "handshake failure" in reason:
            return Heard("certificate", reason)
        return Heard("broken tls", reason) if "alert" in reason else _in_clear(caller, first, reason)
    if answer:
        return _heard(answer)
    return Heard("certificate") if _speaks_tls(caller) else _in_clear(caller, first, "")


def _in_clear(caller: _Caller, protocol: str, reason: str) -> Heard:
    """Tell of who doesn't take up TLS whether plain text is understood."""
    answer = caller.ask(_GREETINGS[protocol])
    if answer and _protocol(answer) in (REST, GRPC):
        return Heard("plain", _protocol(answer))
    if answer is None:
        return Heard("silent")
    return _or_else(answer, "broken tls" if reason else "closed", reason)


def _or_else(answer: bytes | None, otherwise: str, detail: str = "") -> Heard:
    return _heard(answer) if answer else Heard(otherwise, detail)


def _heard(answer: bytes) -> Heard:
    """Return what an answer is; of something unknown, its first line."""
    what = _protocol(answer)
    return Heard(what, answer.split(b"\r\n")[0].decode("latin-1") if what == "other" else "")


def _speaks_tls(caller: _Caller) -> bool:
    """Tell whether there is TLS, whoever it is and whether or not it is to be trusted."""
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((caller.host, caller.port), caller.timeout) as connection,
            anyone.wrap_socket(connection, server_hostname=caller.host),
        ):
            return True
    except ssl.SSLError as error:
        # Only who speaks TLS can send one of its alerts.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
