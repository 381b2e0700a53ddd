"""How a model server is reached, whichever protocol it is: address, encryption, headers, patience.

`client.rest.session` and `client.grpc.channel` make the libraries' own objects of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from export.runtime import DEFAULT_SIGNATURE
from train.errors import UsageError

__all__ = ["GRPC_PORT", "MOST_RETRIES", "REST_PORT", "Connection", "Servable", "Tls"]

# TensorFlow Serving's ports.
GRPC_PORT, REST_PORT = 8500, 8501
# gRPC makes five attempts at most (gRFC A6), so that is the bound for both.
MOST_RETRIES = 4


@dataclass(frozen=True)
class Tls:
    """Encryption: `ca` is whom to trust (PEM; None: the system's authorities), `certificate` and `key` who we are."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
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

    `headers` go with each request, over gRPC as metadata. `timeout` is in seconds for an attempt. An attempt that
    fails because the server isn't there or isn't ready (UNAVAILABLE, 503, no connection) is made again `retries`
    times, with growing pauses: a prediction changes nothing, so twice does no harm.
    Raises UsageError for an address or numbers that can't be.
    """

    server: str
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    retries: int = 2

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise UsageError(f"a timeout of {self.timeout:g}: expected more than 0 seconds")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise UsageError(f"{self.retries} retries: expected 0 to {MOST_RETRIES}")

    @property
    def url(self) -> str:
        """The address as REST's URLs begin."""
        return f"{'https' if self.tls else 'http'}://{self.server}"


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

    @property
    def path(self) -> str:
        """Where it is in REST's URLs."""
        from urllib.parse import quote

        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"
