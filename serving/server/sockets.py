"""Listening sockets: opened, shared by several processes, or found to be taken."""

import contextlib
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
    "check_path_free",
    "remove_path",
]

# Files that a process has open besides connections: libraries, logs, models while they are loaded.
_OTHER_FILES = 512


def allow_connections(count: int) -> int:
    """Let this process, and those it starts, have `count` connections to each of two ports.

    Return how many the system's limit of open files has room for, if that is less: a process that runs into it
    can't load models any more.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + _OTHER_FILES
    if resource.RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return count if soft == resource.RLIM_INFINITY else min(count, max(1, (soft - _OTHER_FILES) // 2))


def bound(host: str, port: int, *, shared: bool = False, listening: bool = True) -> socket.socket:
    """Return a TCP socket bound to the address; port 0 is any free one.

    With `shared`, other sockets that are shared may be bound to it as well, and the system deals connections
    out to those that listen. Raises UsageError if the address can't be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    # The protocol is spelled out because asyncio sets TCP_NODELAY only where it sees it; without, every answer
    # on a kept connection waits 40 ms for the client's acknowledgement of its headers.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Otherwise the port stays taken for a minute after a server with open connections has ended.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(address)
        if listening:
            found.listen(4096)
    except OSError as error:
        with contextlib.suppress(OSError):
            found.close()
        raise UsageError(f"{bracketed(host)}:{port}: can't listen there ({error.strerror})") from None
    return found


def check_free(host: str, port: int) -> None:
    """Raise UsageError if something listens there already, even if it would share."""
    bound(host, port).close()


def check_path_free(path: Path) -> None:
    """Raise UsageError if no Unix socket can be made at `path`; one that a dead server left there is removed."""
    if _listens(path):
        raise UsageError(f"{path}: another server listens there")
    try:
        if path.is_socket():
            path.unlink()
        with socket.socket(socket.AF_UNIX) as found:
            found.bind(str(path))
        path.unlink()
    except OSError as error:
        raise UsageError(f"{path}: can't listen there ({error.strerror or error})") from None


def remove_path(path: Path) -> None:
    """Remove the Unix socket of a server that has ended, if it is still there and nobody else's."""
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
            # Busy, or not ours to ask. What can't be a socket's name at all is said by whoever binds to it.
            return path.is_socket()
    return True


def address(host: str, port: int) -> str:
    """Return host:port as text."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """Return a host as it stands before a colon and a port."""
    return f"[{host}]" if ":" in host else host
