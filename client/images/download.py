"""A picture from a URL, within bounds: of size, of time and of redirects."""

import requests

from tfship.client.targets.time_limit import within
from tfship.train.common.errors import DataError

__all__ = ["MOST_REDIRECTS", "download"]

MOST_REDIRECTS = 5
# From the first look-up of the name to the last byte.
_SECONDS = 60.0


def download(url: str, most: int, seconds: float = _SECONDS) -> bytes:
    """Return what a URL answers, `most` bytes at most. Raises DataError that says what came instead."""
    try:
        return within(seconds, lambda: _fetch(url, most, seconds))
    except (TimeoutError, requests.Timeout):
        raise DataError(f"{url}: not there within {seconds:g} s; expected a picture") from None
    except requests.TooManyRedirects:
        raise DataError(
            f"{url}: more than {MOST_REDIRECTS} redirects; give the picture's own address"
        ) from None
    except (requests.RequestException, ValueError) as error:  # ValueError: no name that a host can have
        raise DataError(f"{url}: can't be fetched ({_reason(error)}); is the address right?") from error


def _fetch(url: str, most: int, seconds: float) -> bytes:
    with requests.Session() as session:
        session.max_redirects = MOST_REDIRECTS
        # Some hosts refuse clients that don't say who they are.
        session.headers["User-Agent"] = "tfship"
        with session.get(url, stream=True, timeout=seconds) as answer:
            if not answer.ok:
                raise DataError(f"{url}: HTTP {answer.status_code} {answer.reason}; expected a picture")
            content = bytearray()
            for block in answer.iter_content(1 << 16):
                content += block
                if len(content) > most:
                    raise DataError(f"{url}: more than {most >> 20} MiB; expected a picture")
            return bytes(content)


def _reason(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
