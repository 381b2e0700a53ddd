"""TLS for both protocols: trusted authorities, and the cause of a failed connection, by a handshake in Python.

gRPC and requests report the same cause in different words, several layers deep.
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
# OpenSSL's reasons for a response that isn't TLS.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
# In seconds. A server that refuses the client's certificate reports it after the handshake, if at all.
_ALERT_TIMEOUT = 0.3


def authorities(tls: Tls) -> Path | None:
    """Return the PEM file of trusted authorities: `tls.ca` or the system's; None if the system has no such file."""
    system = ssl.get_default_verify_paths().cafile
    return tls.ca or (Path(system) if system else None)


def context(tls: Tls) -> ssl.SSLContext:
    """Return a client's context. Raises UsageError for invalid files, before a library reports them less clearly."""
    trusted = authorities(tls)
    try:
        made = ssl.create_default_context(cafile=trusted)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"{trusted}: holds no certificate ({_reason(error)}); give the authority's certificate, as PEM, by --ca"
        ) from None
    if tls.certificate and tls.key:
        try:
            # Without a password, OpenSSL would prompt for that of an encrypted key.
            made.load_cert_chain(tls.certificate, tls.key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UsageError(
                f"--cert {tls.certificate} and --key {tls.key}: can't be used ({_reason(error)}); expected a "
                "certificate and its unencrypted key, as PEM"
            ) from None
    return made


def explain(connection: Connection, seconds: float = 2.0) -> str | None:
    """Try a handshake after a failed connection. Return the problem with TLS and its remedy, None if there is none.

    Also returns None if no server responds within `seconds`.
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
                return "the server expects TLS; add --tls, with --ca FILE for a private authority"
            encrypted.settimeout(min(seconds, _ALERT_TIMEOUT))
            return _alert(encrypted, tls, host)
    except ssl.SSLError as error:
        return None if tls is None else _remedy(error, tls, host)
    except (OSError, ValueError, OverflowError):
        return None


def _alert(encrypted: ssl.SSLSocket, tls: Tls, host: str) -> str | None:
    """Return the problem that the server reports right after the handshake, None if it reports none."""
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
            other = f"not by {tls.ca}" if tls.ca else "by no authority that this machine trusts"
            return (
                f"its certificate is signed {other} ({error.verify_message}); give the authority by --ca FILE"
            )
        if error.verify_code in _OTHER_NAME:
            return f"its certificate is for other names than {host}; use one of them as the host in --server"
        if error.verify_code == _EXPIRED:
            return "its certificate has expired; renew it on the server, or correct this machine's clock"
        return f"its certificate can't be trusted ({error.verify_message})"
    reason = error.reason or ""
    if reason in _NO_TLS:
        return "the server doesn't speak TLS there; omit --tls, --ca, --cert and --key, or give its TLS port"
    if "ALERT" in reason or "HANDSHAKE_FAILURE" in reason:
        return _certificate(reason.lower().replace("_", " "), tls)
    return None


def _certificate(reason: str, tls: Tls) -> str:
    wanted = "refuses this client certificate" if tls.certificate else "expects a client certificate"
    return f"the server {wanted} ({reason}); give one that it trusts by --cert and --key"


def _reason(error: BaseException) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
