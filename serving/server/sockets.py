"""Listening sockets: opening them, sharing them between processes, and checking that addresses are free."""

import contextlib
import logging
import os
import resource
import socket
from pathlib import Path

from tfship.train.common.errors import UsageError

__all__ = [
    "address",
    "allow_connections",
    "bound",
    "bracketed",
    "check_free",
    "check_path",
    "listening_at",
    "remove_path",
]

log = logging.getLogger(__name__)

# Open files of a process that aren't connections: libraries, logs, models during loading.
_OTHER_FILES = 512


def allow_connections(count: int) -> int:
    """Raise the limit of open files of this process and its children for `count` connections to each of two ports.

    Returns the number of connections that the system allows, at most `count`. A process that exceeds the limit could
    no longer load models.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = 2 * count + _OTHER_FILES
    if resource.RLIM_INFINITY != soft < required:
        soft = required if hard == resource.RLIM_INFINITY else min(required, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else min(count, max(1, (soft - _OTHER_FILES) // 2))


def bound(host: str, port: int, *, shared: bool = False, listening: bool = True) -> socket.socket:
    """Return a TCP socket bound to `host` and `port`, by default a listening one; port 0 means any free port.

    With `shared`, other shared sockets may be bound to the same address, and the system distributes connections to
    those that listen. Raises UsageError if the address isn't available.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    # asyncio sets TCP_NODELAY only if the protocol is given. Without it, each response on a persistent connection
    # waits 40 ms for the client's acknowledgement of the headers.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Otherwise the port stays in use for a minute after a server with open connections has ended.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
        if listening:
            found.listen(4096)
    except OSError as error:
        with contextlib.suppress(OSError):
            found.close()
        raise UsageError(
            f"{bracketed(host)}:{port}: can't listen there ({error.strerror}); choose another address or port"
        ) from None
    return found


def check_free(host: str, port: int) -> None:
    """Raise UsageError if another process listens at the address, even on a shared socket."""
    bound(host, port).close()


def check_path(path: Path) -> None:
    """Raise UsageError if no Unix socket can be created at `path`; one that is there will be replaced."""
    probe = path.with_name(f"{path.name}.{os.getpid()}") if path.is_socket() else path
    listening_at(probe).close()
    probe.unlink()


def listening_at(path: Path) -> socket.socket:
    """Return a Unix socket that listens at `path`. Raises UsageError.

    A socket that is there is replaced, as gRPC does: its server, if there is one, gets no further connections.
    """
    found = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            if _listens(path):
                log.warning("%s: another server listens there; this one takes the path over", path)
            path.unlink()
        found.bind(str(path))
        found.listen(4096)
    except OSError as error:
        found.close()
        raise UsageError(f"{path}: can't listen there ({error.strerror or error})") from None
    return found


def remove_path(path: Path) -> None:
    """Remove the Unix socket at `path` if it exists and no server listens there."""
    if path.is_socket() and not _listens(path):
        path.unlink(missing_ok=True)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            # The socket is busy or not accessible. Invalid paths raise an error on bind.
            return path.is_socket()
    return True


def address(host: str, port: int) -> str:
    """Return "host:port", with IPv6 addresses in brackets."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """Return `host` as written before a port: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
