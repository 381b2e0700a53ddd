"""TLS for both ports: reads and checks `--ssl_config_file`, TensorFlow Serving's SSLConfig."""

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
    """The server's certificate and the authorities of its clients, all as PEM, bytes.

    `key` is the unencrypted private key of `certificate`, which may be followed by intermediate certificates. With
    `client_ca`, only clients with a certificate signed by one of these authorities are served.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None

    def credentials(self) -> "grpc.ServerCredentials":
        """Return the credentials for a gRPC port."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.client_ca, require_client_auth=self.client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Return the SSL context for a REST port. Raises ValueError with the reason if a field is invalid."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        with _readable(self.certificate) as certificate, _readable(self.key) as key:
            try:
                # With a password, OpenSSL doesn't prompt for one on the terminal if the key is encrypted.
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
    """Return the TLS settings in the text file `path`, an SSLConfig. Raises UsageError, also for invalid keys."""
    config = config_messages.read(path, config_messages.SSLConfig, _FLAG)
    for name, kind in (("server_key", "PRIVATE KEY"), ("server_cert", "CERTIFICATE")):
        if f"{kind}-----" not in getattr(config, name):
            raise UsageError(
                f"{_FLAG}: {path}: {name} holds no {kind}; expected the contents of a PEM file, not its name: "
                '"-----BEGIN …\\n…"'
            )
    if config.client_verify and not config.custom_ca:
        raise UsageError(
            f"{_FLAG}: {path}: client_verify is set without custom_ca, so that no client can be verified; set "
            "custom_ca to the authority of your clients' certificates"
        )
    # The authority is only used if clients are verified, as in TensorFlow Serving.
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
    """Return OpenSSL's message without its error code and source line."""
    return re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", str(error))


@contextlib.contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """Yield a path from which `content` can be read: OpenSSL reads the server's key only from files.

    Only this process can use the path. It refers to memory if the system supports that, or else to an unnamed file.
    """
    in_memory = hasattr(os, "memfd_create")
    with os.fdopen(os.memfd_create("pem"), "w+b") if in_memory else tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"
