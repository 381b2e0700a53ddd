"""Object storage by fsspec's drivers: s3://, gs://, az:// and file:// URLs."""

import contextlib
import errno
import importlib.util
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, Refused, TfshipError, Unreachable, UsageError

__all__ = ["CACHE_FOLDER", "check", "filesystem", "is_url", "translated"]

# Copies of versions, for servers and clients.
CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tfship"
# The driver of each scheme, and the extra that installs it.
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs"), "az": ("adlfs", "azure"), "file": ("fsspec", "s3")}
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://(.*)", re.DOTALL)
# Seconds for a connection and for a response. S3's driver waits a minute by default, and retries five times.
_CONNECT_SECONDS, _READ_SECONDS = 5, 15
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": 2},
        }
    },
    "file": {"auto_mkdir": True},
    "az": {"connection_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS},
}
# Errors of the operating system that another attempt doesn't mend.
_DENIED = (errno.EACCES, errno.EPERM)


def is_url(text: str) -> bool:
    """Whether `text` is a URL rather than a path."""
    return _URL.match(text) is not None


def check(url: str) -> str:
    """Return the scheme of `url`.

    Raises UsageError for another scheme, a URL without bucket, or a driver that isn't installed.
    """
    match = _URL.match(url)
    scheme = match[1] if match else ""
    if match is None or scheme not in _EXTRAS:
        raise UsageError(
            f"{url}: expected a URL that begins with {', '.join(f'{each}://' for each in _EXTRAS)}"
        )
    is_file = scheme == "file"
    if not match[2].strip("/") or is_file != match[2].startswith("/"):
        raise UsageError(f"{url}: expected {'an absolute path' if is_file else 'a bucket'} after ://")
    package, extra = _EXTRAS[scheme]
    if importlib.util.find_spec(package) is None:
        raise cli.missing(f"a URL with {scheme}://", package, extra)
    return scheme


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `url` and the path in it, without a slash at the end.

    Listings aren't cached, so that changes are seen. Credentials are found as the driver finds them: environment,
    configuration files, or the machine's role. Raises what `check` does.
    """
    scheme = check(url)
    import fsspec

    # The driver raises its errors, too. Its log would only repeat them, with tracebacks.
    logging.getLogger(_EXTRAS[scheme][0]).setLevel(logging.CRITICAL)
    with translated(url):
        found, path = fsspec.url_to_fs(url, use_listings_cache=False, **_OPTIONS.get(scheme, {}))
    return found, path.rstrip("/")


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise the drivers' exceptions about `url` as TfshipErrors.

    ArtifactError: there is no such object or bucket. Refused: access is denied, or no credentials are found.
    Unreachable: anything else, which another attempt may mend.
    """
    try:
        yield
    except TfshipError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"{url}: no such object, folder or bucket; check the URL") from None
    except Exception as error:  # noqa: BLE001 - each driver has exceptions of its own libraries
        reason = cli.one_line(error) or type(error).__name__
        if _is_denied(error):
            raise Refused(
                f"{url}: access is denied ({reason}); check the credentials and the bucket's policy"
            ) from None
        raise Unreachable(f"{url}: the storage can't be read or written ({reason})") from None


def _is_denied(error: Exception) -> bool:
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in _DENIED):
        return True
    # botocore.exceptions.NoCredentialsError, google.auth.exceptions.DefaultCredentialsError,
    # azure.core.exceptions.ClientAuthenticationError: of libraries that may not be installed.
    return bool(re.search("Credential|Authentication", type(error).__name__))
