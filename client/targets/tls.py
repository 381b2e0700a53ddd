"""TLS for both protocols: whom to trust, and what is wrong where a connection fails, by Python's own handshake.

gRPC and requests tell of the same cause in different words, several layers deep.
"""

import contextlib
import socket
import ssl
from pathlib import Path

from tfship.client.targets.connection import Connection, Tls
from tfship.client.targets.time_limit import within
from tfship.train.common.errors import UsageError

__all__ = ["authorities", "context", "explain"]

# OpenSSL's X509_V_ERR numbers.
_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21}
_EXPIRED = 10
_OTHER_NAME = {62, 64}
# What it calls answers that are no TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
# A server that refuses the client's certificate says so after the handshake, if at all.
_SECOND_THOUGHTS = 0.3


def authorities(tls: Tls) -> Path | None:
    """Return the PEM file of whom to trust: `tls.ca` or the system's; None where the system has no such file."""
    system = ssl.get_default_verify_paths().cafile
    return tls.ca or (Path(system) if system else None)


def context(tls: Tls) -> ssl.SSLContext:
    """Return a client's context; UsageError for files of no use, before a library stumbles over them."""
    trusted = authorities(tls)
    try:
        made = ssl.create_default_context(cafile=trusted)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"{trusted}: holds no certificate ({_reason(error)}); expected the authority's, as PEM, in --ca"
        ) from None
    if tls.certificate and tls.key:
        try:
            # The password keeps OpenSSL from asking the terminal for that of an encrypted key.
            made.load_cert_chain(tls.certificate, tls.key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UsageError(
                f"--cert {tls.certificate} and --key {tls.key}: can't be used ({_reason(error)}); expected a "
                "certificate and its unencrypted key, as PEM"
            ) from None
    return made


def explain(connection: Connection, seconds: float = 2.0) -> str | None:
    """Try a handshake where a connection has failed and return what is wrong and its remedy; None if nothing is.

    None as well where nobody answers at all, or not in `seconds`.
    """
    with contextlib.suppress(TimeoutError):
        return within(seconds, lambda: _explain(connection, seconds))
    return None


def _explain(connection: Connection, seconds: float) -> str | None:
    host, _, port = connection.server.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        return None
    tls = connection.tls
    if tls is not None:
        trusted = context(tls)
    else:
        trusted = ssl.create_default_context()
        trusted.check_hostname, trusted.verify_mode = False, ssl.CERT_NONE
    trusted.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection((host, int(port)), seconds) as plain,
            trusted.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            if tls is None:
                return "it speaks TLS there; add --tls, with --ca FILE for an authority of your own"
            encrypted.settimeout(min(seconds, _SECOND_THOUGHTS))
            return _second_thoughts(encrypted, tls, host)
    except ssl.SSLError as error:
        return None if tls is None else _remedy(error, tls, host)
    except (OSError, ValueError, OverflowError):
        return None


def _second_thoughts(encrypted: ssl.SSLSocket, tls: Tls, host: str) -> str | None:
    try:
        if encrypted.recv(1):
            return None
    except TimeoutError:
        return None
    except ssl.SSLError as error:
        return _remedy(error, tls, host)
    except OSError:
        pass
    return _certificate("hangs up", tls)


def _remedy(error: ssl.SSLError, tls: Tls, host: str) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY:
            other = f"not by {tls.ca}" if tls.ca else "by no authority that this machine knows"
            return (
                f"its certificate is signed {other} ({error.verify_message}); give the right one by --ca FILE"
            )
        if error.verify_code in _OTHER_NAME:
            return f"its certificate is for other names than {host}; give one of them as --server's host"
        if error.verify_code == _EXPIRED:
            return "its certificate has expired; whoever runs the server must renew it (is this machine's clock right?)"
        return f"its certificate can't be trusted ({error.verify_message})"
    reason = error.reason or ""
    if reason in _NO_TLS:
        return "it doesn't speak TLS there; leave --tls, --ca, --cert and --key out, or ask its TLS port"
    if "ALERT" in reason or "HANDSHAKE_FAILURE" in reason:
        return _certificate(reason.lower().replace("_", " "), tls)
    return None


def _certificate(reason: str, tls: Tls) -> str:
    wanted = "doesn't take this certificate" if tls.certificate else "asks for a client's certificate"
    return f"it {wanted} ({reason}); give one that it knows by --cert and --key"


def _reason(error: BaseException) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
