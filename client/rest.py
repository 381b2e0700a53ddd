"""A model behind TensorFlow Serving's REST API, as a `Target`."""

import numpy as np
import requests
from numpy.typing import NDArray

from train.errors import Refused, Unreachable

__all__ = ["Rest"]


class Rest:
    """`POST http://<server>/v1/models/<model>[/versions/<version>]:predict`, over one kept connection.

    `server` is host:port, `timeout` seconds for a whole request. `predict` raises Unreachable where nothing
    answers in time and Refused with the server's own words where it says no.
    """

    def __init__(self, server: str, model: str, version: int | None = None, timeout: float = 10.0) -> None:
        part = "" if version is None else f"/versions/{version}"
        self._server, self._timeout = server, timeout
        self._url = f"http://{server}/v1/models/{model}{part}:predict"
        self._session = requests.Session()

    def predict(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `export.runtime.Target.predict`."""
        try:
            answer = self._session.post(self._url, json={"instances": images.tolist()}, timeout=self._timeout)
        except requests.Timeout:
            raise Unreachable(f"{self._url}: no answer within {self._timeout:g} s; see --timeout") from None
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
                f"is {self._server} a model server's REST port?"
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
