"""TLS on both ports: `--ssl_config_file`, TensorFlow Serving's SSLConfig, read and checked once for both libraries."""

import contextlib
import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfship.serving.protos import config_messages
from tfship.train.common.errors import UsageError

if TYPE_CHECKING:
    import grpc

__all__ = ["ServerTls", "read"]


@dataclass(frozen=True, repr=False)
class ServerTls:
    """A server's identity, and whose clients it takes; everything is PEM text, as bytes.

    `certificate` is the server's, followed by those that lead to its authority, and `key` the certificate's private
    key, unencrypted. With `client_ca`, only clients with a certificate that one of these authorities signed are served.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None

    def credentials(self) -> "grpc.ServerCredentials":
        """Return what a gRPC port is opened with."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.client_ca, require_client_auth=self.client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Return what a REST port is opened with. Raises ValueError for what can't be used, and says why."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        with _readable(self.certificate) as certificate, _readable(self.key) as key:
            try:
                # The password keeps OpenSSL from asking the terminal for that of an encrypted key.
                context.load_cert_chain(certificate, key, password="")
            except (ssl.SSLError, ValueError) as error:
                raise ValueError(f"server_cert and server_key can't be used ({_reason(error)})") from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(cadata=self.client_ca.decode())
            except (ssl.SSLError, ValueError) as error:
                raise ValueError(f"custom_ca can't be used ({_reason(error)})") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def read(path: Path) -> ServerTls:
    """Return what the SSLConfig in the text file `path` asks for. Raises UsageError, also for keys of no use."""
    config = config_messages.read(path, config_messages.SSLConfig, _FLAG)
    for name, kind in (("server_key", "PRIVATE KEY"), ("server_cert", "CERTIFICATE")):
        if f"{kind}-----" not in getattr(config, name):
            raise UsageError(
                f"{_FLAG}: {path}: {name} holds no {kind}; expected the contents of a PEM file, not its name: "
                '"-----BEGIN …\\n…"'
            )
    if config.client_verify and not config.custom_ca:
        raise UsageError(
            f"{_FLAG}: {path}: client_verify is set without custom_ca, so that no client could be verified; add the "
            "authority that signs your clients' certificates"
        )
    # As in TensorFlow Serving, the authority matters only where clients are verified.
    client_ca = config.custom_ca.encode() if config.client_verify else None
    tls = ServerTls(config.server_key.encode(), config.server_cert.encode(), client_ca)
    try:
        tls.context()
    except ValueError as error:
        raise UsageError(
            f"{_FLAG}: {path}: {error}; expected a certificate and its unencrypted key, both as PEM"
        ) from None
    return tls


_FLAG = "--ssl_config_file"


def _reason(error: Exception) -> str:
    """Return OpenSSL's words without its names and places for them."""
    return re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error))


@contextlib.contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """Give `content` a path for as long as the context lasts: OpenSSL reads a server's key from nothing else.

    It is a path of this process only, to memory where the system can, or else to a file without a name.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("pem"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
