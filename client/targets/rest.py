"""Transport over TensorFlow Serving's REST API."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from tfship.client.targets import tls
from tfship.client.targets.binding import EXPORTED, Binding, RawScores, checked
from tfship.client.targets.connection import (
    COMPRESSED_FROM,
    MOST_RESPONSE,
    REST_PORT,
    Connection,
    Servable,
    bounded,
    root_cause,
)
from tfship.client.targets.model_info import signatures_in_json
from tfship.client.targets.registry import Choice, Opened, served
from tfship.client.targets.time_limit import within
from tfship.export.runtimes.protocol import Signature
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["MOST_CONNECTIONS", "Rest", "open_target", "session"]

# Connections kept open for reuse by concurrent threads.
MOST_CONNECTIONS = 32

# In seconds: the first pause between attempts is twice this, and each further pause twice the previous one.
_BACKOFF = 0.1
# Higher levels take longer than sending the difference.
_GZIP_LEVEL = 1


def session(connection: Connection) -> requests.Session:
    """Return a session with persistent connections, and the encryption, headers and retries of `connection`.

    Without its timeout, which requests takes per call and applies to each socket read. Raises UsageError for invalid
    keys and certificates.
    """
    made = _Session()
    made.trust_env = not connection.is_local  # the environment's proxies
    # read=False: a server that didn't respond in time may still be processing the request.
    retry = Retry(
        connection.retries, read=False, status_forcelist=[503], backoff_factor=_BACKOFF, allowed_methods=None,
        raise_on_status=False, respect_retry_after_header=False,  # may be hours
    )  # fmt: skip
    made.mount(connection.url, HTTPAdapter(max_retries=retry, pool_maxsize=MOST_CONNECTIONS))
    made.headers.update(connection.headers)
    if connection.tls is not None:
        tls.context(connection.tls)
        trusted = tls.authorities(connection.tls)
        made.verify = str(trusted) if trusted else True
        if connection.tls.certificate and connection.tls.key:
            made.cert = (str(connection.tls.certificate), str(connection.tls.key))
    return made


def open_target(choice: Choice) -> Opened:
    """Open the server's model that was chosen."""
    return served(choice, Rest, REST_PORT)


class _Session(requests.Session):
    """A session whose authorities take precedence over REQUESTS_CA_BUNDLE, unlike in requests' own class."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        return super().merge_environment_settings(
            url, proxies, stream, self.verify if verify is None else verify, cert
        )


class Rest:
    """`POST <server>/v1/models/<model>[/versions/<version>]:predict`, over persistent connections.

    A `Transport`, and a `Target` by `predict`. Raises Unreachable if no server responds in time, and Refused, with the
    server's message, for an error response.
    """

    def __init__(self, connection: Connection, servable: Servable, binding: Binding = EXPORTED) -> None:
        self._connection, self._servable = connection, servable
        self.binding = binding
        self._url = f"{connection.url}{servable.path}"
        self._session = session(connection)

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores that `send` does."""
        return self.send(images).scores

    def send(self, images: NDArray[Any]) -> RawScores:
        """See `Transport.send`. REST doesn't report the version."""
        return self.understood(self._call("POST", ":predict", self.encoded(images)), len(images))

    def encoded(self, images: NDArray[Any]) -> bytes:
        """Return the body of a request for images in the binding's form."""
        instances: Any = np.ascontiguousarray(images)
        if images.dtype == object:
            instances = [{"b64": base64.b64encode(each).decode()} for each in images]
        # The shortest digits that round-trip a float32. json.dumps writes twice as many and takes 16 times as long.
        body = {"signature_name": self._servable.signature, "instances": instances}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)

    def understood(self, response: Mapping[str, Any], count: int) -> RawScores:
        """Return the scores of `count` images in a response's JSON object."""
        rows = response.get("predictions")
        # For a signature with several outputs, each row is an object of them.
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            if self.binding.output not in rows[0]:
                raise Refused(
                    f"{self._url}: returned {', '.join(rows[0])}; expected {self.binding.output}, the name that "
                    "`tfship export` gives it"
                )
            rows = [row.get(self.binding.output) for row in rows]
        return RawScores(checked(rows, count, self._url))

    def signatures(self) -> dict[str, Signature]:
        """See `Transport.signatures`."""
        try:
            return signatures_in_json(self._call("GET", "/metadata"))
        except ValueError:
            raise Refused(
                f"{self._url}/metadata: returned no signatures; expected TensorFlow Serving's metadata"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _call(self, method: str, suffix: str, body: bytes = b"") -> dict[str, Any]:
        """Return the JSON object in the server's response."""
        url, timeout = self._url + suffix, self._connection.timeout
        try:
            response, content = within(timeout, lambda: self._exchange(method, url, body))
        except (requests.Timeout, TimeoutError):
            remedy = tls.explain(self._connection) or f"no response within {timeout:g} s; see --timeout"
            raise Unreachable(f"{url}: {remedy}") from None
        except requests.exceptions.ProxyError as error:
            raise Unreachable(
                f"{url}: the proxy fails ({root_cause(error)}); correct HTTP_PROXY or HTTPS_PROXY, or name the server "
                "in NO_PROXY"
            ) from error
        except (requests.RequestException, ValueError) as error:  # ValueError: an impossible host name
            remedy = tls.explain(self._connection) or (
                f"no HTTP server responds there ({root_cause(error)}); is `tfship serve` running, and is this its "
                "REST port (8501, not gRPC's 8500)?"
            )
            raise Unreachable(f"{url}: {remedy}") from error
        try:
            parsed = json.loads(content)
            if response.ok and not response.is_redirect and isinstance(parsed, dict):
                return parsed
            reason = str(parsed["error"])
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{url}: {self._unexpected(response, len(body))}") from None
        hint = _size_hint(response.status_code, len(body))
        raise Refused(f"{url}: HTTP {response.status_code}: {reason}{hint}")

    def _exchange(self, method: str, url: str, body: bytes) -> tuple[requests.Response, bytes]:
        headers = {}
        if body:
            headers["Content-Type"] = "application/json"
            if self._connection.compresses and len(body) >= COMPRESSED_FROM:
                body, headers["Content-Encoding"] = gzip.compress(body, _GZIP_LEVEL), "gzip"
        # Redirects aren't followed: API keys must not reach another server.
        with self._session.request(
            method, url, data=body, headers=headers, timeout=self._connection.timeout,
            allow_redirects=False, stream=True,
        ) as response:  # fmt: skip
            large = Refused(
                f"{url}: a response of more than {MOST_RESPONSE >> 20} MiB; expected probabilities"
            )
            return response, bounded(response, MOST_RESPONSE, large)

    def _unexpected(self, response: requests.Response, size: int) -> str:
        """Return the message for a response that isn't TensorFlow Serving's, to a request of `size` bytes."""
        status = f"HTTP {response.status_code}"
        if response.is_redirect:
            return f"{status}, a redirect to {response.headers['location']}; give that address as --server"
        if hint := _size_hint(response.status_code, size):
            return status + hint
        if response.status_code in (401, 403):
            return f"{status}, {response.reason}; give the credentials that the server or its proxy expects by --header"
        hint = f"is {self._connection.server} a model server's REST port?"
        return f"{status} without TensorFlow Serving's JSON; {tls.explain(self._connection) or hint}"


def _size_hint(status: int, size: int) -> str:
    if status != 413:
        return ""
    return (
        f": the server refuses a request of {size / 2**20:.1f} MiB; raise its limit, send encoded images by "
        "--signature serving_bytes, or use --target grpc, whose tensors are a fifth of the size"
    )
