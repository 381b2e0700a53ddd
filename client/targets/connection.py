"""Connection settings for a model server, independent of the protocol: address, encryption, headers, timeout, retries.

`client.targets.rest.session` and `client.targets.grpc.channel` turn them into the libraries' objects.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common.errors import UsageError

__all__ = [
    "COMPRESSED_FROM", "GRPC_PORT", "MOST_RESPONSE", "MOST_RETRIES", "REST_PORT", "Connection", "Servable", "Tls",
    "bounded", "root_cause",
]  # fmt: skip

# TensorFlow Serving's ports.
GRPC_PORT, REST_PORT = 8500, 8501
# gRPC makes five attempts at most (gRFC A6); REST has the same limit.
MOST_RETRIES = 4
# In bytes. A response with probabilities is far smaller.
MOST_RESPONSE = 64 << 20
# In bytes. Smaller bodies fit into one packet anyway.
COMPRESSED_FROM = 1400

_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # gRPC's rule for metadata, stricter than HTTP's
_HEADER_VALUE = re.compile(r"[ -~]*")
_LOOPBACK = re.compile(r"(unix:.*|localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Tls:
    """TLS settings, as PEM files: authorities `ca` (None: the system's), client `certificate` and its `key`.

    Raises UsageError for a file that doesn't exist, and for a certificate without a key or a key without one.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            path: object = getattr(self, name)
            if isinstance(path, str):  # accepted from callers without type checks
                object.__setattr__(self, name, Path(path))
        if (self.certificate is None) != (self.key is None):
            found, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise UsageError(f"a client's {found} without its {missing}; expected both, or neither")
        for path in (self.ca, self.certificate, self.key):
            if path is not None and not path.is_file():
                raise UsageError(f"{path}: no such file; expected a PEM file")


@dataclass(frozen=True)
class Connection:
    """A server at `server` (host:port); plain text unless `tls` is set.

    `headers` are sent with each request, over gRPC as metadata. `timeout` limits a request, all attempts together, in
    seconds. An attempt that finds the server unreachable or not ready (UNAVAILABLE, 503, no connection) is repeated
    up to `retries` times, after growing pauses: predictions are idempotent. `gzip` compresses large requests; None
    compresses only those to other machines. Raises UsageError for invalid values.
    """

    server: str
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold an API key
    timeout: float = 10.0
    retries: int = 2
    gzip: bool | None = None

    def __post_init__(self) -> None:
        if "://" in self.server and not self.server.startswith("unix://"):
            raise UsageError(f"{self.server}: expected host:port, without {self.server.split('://')[0]}://")
        # One week: larger values overflow some clocks.
        if not 0 < self.timeout <= 604_800:
            raise UsageError(f"a timeout of {self.timeout:g}: expected more than 0 seconds, 604800 at most")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise UsageError(f"{self.retries} retries: expected 0 to {MOST_RETRIES}")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise UsageError(f"a header's name {name!r}: expected letters, digits, - _ and .")
            if not _HEADER_VALUE.fullmatch(value) or name.lower().endswith("-bin"):
                # Without the value, which may be a secret.
                raise UsageError(f"header {name}: expected a value of printable ASCII in one line")

    @property
    def url(self) -> str:
        """The address as a URL, without a path."""
        return f"{'https' if self.tls else 'http'}://{self.server}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine; then no proxy is used."""
        return _LOOPBACK.fullmatch(self.server) is not None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers as gRPC's metadata."""
        return tuple((name.lower(), value) for name, value in self.headers.items())

    @property
    def compresses(self) -> bool:
        """Whether large requests are compressed."""
        return not self.is_local if self.gzip is None else self.gzip


@dataclass(frozen=True)
class Servable:
    """A model on a server: a version by number or label, or else the latest. Raises UsageError for invalid values."""

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = DEFAULT_SIGNATURE

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise UsageError(f"version {self.version} and label {self.label!r}: expected one of them")
        if self.version is not None and not 0 <= self.version < 2**63:
            raise UsageError(f"version {self.version}: expected a whole number of 0 to 2^63 - 1")

    @property
    def path(self) -> str:
        """The path in REST's URLs."""
        from urllib.parse import quote

        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"


def bounded(response: Any, most: int, too_large: Exception) -> bytes:
    """Return the body of a response of requests, `most` bytes at most. Raises `too_large` for a longer one."""
    content = bytearray()
    for block in response.iter_content(1 << 16):
        content += block
        if len(content) > most:
            raise too_large
    return bytes(content)


def root_cause(error: BaseException) -> str:
    """Return the message of an error's innermost cause: requests wraps urllib3's errors, which wrap the system's."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = getattr(error, "strerror", None) or str(error)
    # The error may quote bytes of a server that speaks another protocol.
    return text if text and text.isprintable() else type(error).__name__
