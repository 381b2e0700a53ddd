"""A model behind TensorFlow Serving's REST API, as a `Target`."""

import numpy as np
import requests
from numpy.typing import NDArray
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from client.connection import Connection, Servable
from train.errors import Refused, Unreachable

__all__ = ["Rest", "session"]

# The first pause is twice this, in seconds, and each further one twice the one before.
_BACKOFF = 0.1


def session(connection: Connection) -> requests.Session:
    """Return a session whose connections are kept, with the connection's encryption, headers and retries.

    Not the timeout: requests takes it with each call.
    """
    made = requests.Session()
    # A server that had the request and didn't answer in time may be working on it: no second one (read=False).
    retry = Retry(
        connection.retries, read=False, status_forcelist=[503], backoff_factor=_BACKOFF, allowed_methods=None,
        raise_on_status=False,
    )  # fmt: skip
    made.mount(connection.url, HTTPAdapter(max_retries=retry))
    made.headers.update(connection.headers)
    if connection.tls is not None:
        made.verify = str(connection.tls.ca) if connection.tls.ca else True
        if connection.tls.certificate and connection.tls.key:
            made.cert = (str(connection.tls.certificate), str(connection.tls.key))
    return made


class Rest:
    """`POST <server>/v1/models/<model>[/versions/<version>]:predict`, over one kept connection.

    `predict` raises Unreachable where nothing answers in time and Refused with the server's own words where it
    says no.
    """

    def __init__(self, connection: Connection, servable: Servable) -> None:
        self._connection, self._servable = connection, servable
        self._url = f"{connection.url}{servable.path}:predict"
        self._session = session(connection)

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `export.runtime.Target.predict`."""
        timeout = self._connection.timeout
        body = {"signature_name": self._servable.signature, "instances": images.tolist()}
        try:
            answer = self._session.post(self._url, json=body, timeout=timeout)
        except requests.Timeout:
            raise Unreachable(f"{self._url}: no answer within {timeout:g} s; see --timeout") from None
        except (requests.RequestException, ValueError) as error:  # ValueError: no name that a host can have
            raise Unreachable(
                f"{self._url}: nothing answers with HTTP there ({_reason(error)}); is `make serve` running, "
                "and is this its REST port (8501, not gRPC's 8500)?"
            ) from error
        try:
            body = answer.json()
            if answer.ok:
                return np.asarray(body["predictions"], np.float32)
            reason = body["error"]
        except (ValueError, KeyError, TypeError):
            raise Refused(
                f"{self._url}: HTTP {answer.status_code}, but not as TensorFlow Serving answers; "
                f"is {self._connection.server} a model server's REST port?"
            ) from None
        raise Refused(f"{self._url}: HTTP {answer.status_code}: {reason}")

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


def _reason(error: BaseException) -> str:
    """Return the innermost cause, which says it shortest: requests wraps urllib3 wraps the system's error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
