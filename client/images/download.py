"""Download of an image from a URL, with limits for size, time and redirects."""

import requests

from tfship.client.targets.connection import bounded, root_cause
from tfship.client.targets.time_limit import within
from tfship.train.common.errors import DataError

__all__ = ["MOST_REDIRECTS", "download"]

MOST_REDIRECTS = 5
# From the DNS lookup to the last byte.
_SECONDS = 60.0


def download(url: str, most: int, seconds: float = _SECONDS) -> bytes:
    """Return the bytes at a URL, `most` at most. Raises DataError if that fails, or takes more than `seconds`."""
    try:
        return within(seconds, lambda: _fetch(url, most, seconds))
    except (TimeoutError, requests.Timeout):
        raise DataError(f"{url}: not downloaded within {seconds:g} s; expected an image") from None
    except requests.TooManyRedirects:
        raise DataError(
            f"{url}: more than {MOST_REDIRECTS} redirects; give the image's final address"
        ) from None
    except (requests.RequestException, ValueError) as error:  # ValueError: an impossible host name
        raise DataError(f"{url}: can't be downloaded ({root_cause(error)}); check the address") from error


def _fetch(url: str, most: int, seconds: float) -> bytes:
    with requests.Session() as session:
        session.max_redirects = MOST_REDIRECTS
        # Some hosts refuse requests without a User-Agent.
        session.headers["User-Agent"] = "tfship"
        with session.get(url, stream=True, timeout=seconds) as response:
            if not response.ok:
                raise DataError(f"{url}: HTTP {response.status_code} {response.reason}; expected an image")
            return bounded(response, most, DataError(f"{url}: more than {most >> 20} MiB; expected an image"))
