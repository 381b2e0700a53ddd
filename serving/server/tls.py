"""TLS for both ports: reads and checks `--ssl_config_file`, TensorFlow Serving's SSLConfig."""

import contextlib
import logging
import os
import re
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfship.serving.protos import config_messages
from tfship.train.common.errors import UsageError

__all__ = ["ReplaceableContext", "ServerTls", "TlsFile", "read"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ServerTls:
    """The server's certificate and the authorities of its clients, all as PEM, bytes.

    `key` is the unencrypted private key of `certificate`, which may be followed by intermediate certificates. With
    `client_ca`, only clients with a certificate signed by one of these authorities are served.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None

    def context(self, protocol: str) -> ssl.SSLContext:
        """Return the SSL context of a port for `protocol`, an ALPN name: h2 or http/1.1.

        Raises ValueError with the reason if a field is invalid.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols([protocol])
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


class ReplaceableContext:
    """The SSL context of a port, whose certificates can be replaced while connections are accepted."""

    def __init__(self, tls: ServerTls, protocol: str) -> None:
        self._protocol = protocol
        self._current = self.context = tls.context(protocol)
        # Called in each handshake, also without a server name. The port's own context can't be exchanged.
        self.context.sni_callback = self._choose

    def replace(self, tls: ServerTls) -> None:
        """Use other certificates for new connections. Raises ValueError as `ServerTls.context`."""
        self._current = tls.context(self._protocol)

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._current


class TlsFile:
    """`--ssl_config_file`, read again in a thread when it changes; `contexts` then get its certificates.

    A file that isn't valid is logged, and the old certificates stay in use.
    """

    def __init__(self, path: Path, contexts: Sequence[ReplaceableContext]) -> None:
        self._path, self._contexts = path, contexts
        self._stopped = threading.Event()
        self._seen = _state(path)
        self._thread = threading.Thread(target=self._watch, name="tls", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS):
            if (state := _state(self._path)) == self._seen:
                continue
            self._seen = state
            try:
                tls = read(self._path)
                for context in self._contexts:
                    context.replace(tls)
            except UsageError as error:
                log.error("%s; the certificates before it stay in use", error)
            else:
                log.info("%s: %s has changed: new connections use its certificates", _FLAG, self._path)


_POLL_SECONDS = 1.0


def _state(path: Path) -> object:
    """Return what is different after each change of a file, also if its folder is a symbolic link (Kubernetes)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


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
        tls.context("h2")
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
