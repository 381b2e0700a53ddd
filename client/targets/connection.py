"""How a model server is reached, whichever protocol it is: address, encryption, headers, patience.

`client.targets.rest.session` and `client.targets.grpc.channel` make the libraries' own objects of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE
from tfship.train.common.errors import UsageError

__all__ = [
    "COMPRESSED_FROM", "GRPC_PORT", "MOST_ANSWER", "MOST_RETRIES", "REST_PORT", "Connection", "Servable", "Tls",
]  # fmt: skip

# TensorFlow Serving's ports.
GRPC_PORT, REST_PORT = 8500, 8501
# gRPC makes five attempts at most (gRFC A6), so that is the bound for both.
MOST_RETRIES = 4
# Probabilities are small: beyond so many bytes an answer is something else.
MOST_ANSWER = 64 << 20
# Bodies below so many bytes fit a packet anyway.
COMPRESSED_FROM = 1400

_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # what gRPC takes for metadata, which HTTP takes, too
_HEADER_VALUE = re.compile(r"[ -~]*")
_LOOPBACK = re.compile(r"(unix:.*|localhost|127(\.\d+){3}|\[::1\])(:\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Tls:
    """Encryption: `ca` is whom to trust (PEM; None: the system's authorities), `certificate` and `key` who we are."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for name in ("ca", "certificate", "key"):
            path: object = getattr(self, name)
            if isinstance(path, str):  # as programs without types may give it
                object.__setattr__(self, name, Path(path))
        if (self.certificate is None) != (self.key is None):
            found, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise UsageError(
                f"a client's {found} without its {missing}; a server that asks for one needs both"
            )
        for path in (self.ca, self.certificate, self.key):
            if path is not None and not path.is_file():
                raise UsageError(f"{path}: no such file; expected a PEM file")


@dataclass(frozen=True)
class Connection:
    """A server at `server` (host:port), spoken to in plain text unless there is `tls`.

    `headers` go with each request, over gRPC as metadata. `timeout` is in seconds for an answer, all attempts
    together. An attempt that fails because the server isn't there or isn't ready (UNAVAILABLE, 503, no connection)
    is made again `retries` times, with growing pauses: a prediction changes nothing, so twice does no harm. Large
    requests are compressed if `gzip`; None means where the way is longer than this machine's loopback.
    Raises UsageError for an address, headers or numbers that can't be.
    """

    server: str
    tls: Tls | None = None
    headers: Mapping[str, str] = field(
        default_factory=dict, repr=False
    )  # an API key is nobody else's business
    timeout: float = 10.0
    retries: int = 2
    gzip: bool | None = None

    def __post_init__(self) -> None:
        if "://" in self.server and not self.server.startswith("unix://"):
            raise UsageError(f"{self.server}: expected host:port, without {self.server.split('://')[0]}://")
        # A week; more is no patience, and some clocks can't count it.
        if not 0 < self.timeout <= 604_800:
            raise UsageError(f"a timeout of {self.timeout:g}: expected more than 0 seconds, 604800 at most")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise UsageError(f"{self.retries} retries: expected 0 to {MOST_RETRIES}")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise UsageError(f"a header's name {name!r}: expected letters, digits, - _ and .")
            if not _HEADER_VALUE.fullmatch(value) or name.lower().endswith("-bin"):
                # Its value may be a secret and isn't shown.
                raise UsageError(f"header {name}: expected a value of printable ASCII in one line")

    @property
    def url(self) -> str:
        """The address as REST's URLs begin."""
        return f"{'https' if self.tls else 'http'}://{self.server}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine: no proxy is asked on the way, and nothing is compressed."""
        return _LOOPBACK.fullmatch(self.server) is not None

    @property
    def compresses(self) -> bool:
        """Whether large requests are compressed."""
        return not self.is_local if self.gzip is None else self.gzip


@dataclass(frozen=True)
class Servable:
    """A model on a server: by its version's number, or by the label of one, or, with neither, the latest."""

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
        """Where it is in REST's URLs."""
        from urllib.parse import quote

        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"
