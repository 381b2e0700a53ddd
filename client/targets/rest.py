"""A model behind TensorFlow Serving's REST API, as a `Target`."""

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

from tfship.client.targets.binding import Answer, Binding, checked
from tfship.client.targets.connection import COMPRESSED_FROM, MOST_ANSWER, REST_PORT, Connection, Servable
from tfship.client.targets.registry import Choice, Opened, served
from tfship.client.targets.time_limit import within
from tfship.export.runtimes.protocol import Signature, TensorSpec
from tfship.train.common.errors import Refused, Unreachable

__all__ = ["MOST_CONNECTIONS", "Rest", "open_target", "session"]

# Kept for the next requests, where several threads ask at the same time.
MOST_CONNECTIONS = 32

# The first pause is twice this, in seconds, and each further one twice the one before.
_BACKOFF = 0.1
# Where compressing further takes longer than sending.
_GZIP_LEVEL = 1
# TensorFlow's DataType names by their numbers, the first and the one beyond them that a picture can be.
_NAMES = (
    "INVALID",
    "FLOAT",
    "DOUBLE",
    "INT32",
    "UINT8",
    "INT16",
    "INT8",
    "STRING",
    "COMPLEX64",
    "INT64",
    "BOOL",
)
_NUMBERS = {f"DT_{name}": number for number, name in (*enumerate(_NAMES), (19, "HALF"))}


def session(connection: Connection) -> requests.Session:
    """Return a session whose connections are kept, with the connection's encryption, headers and retries.

    Not the timeout: requests takes it with each call, and for each read of a socket. Raises UsageError for keys and
    certificates that can't be used.
    """
    made = _Session()
    made.trust_env = not connection.is_local  # the environment's proxies
    # A server that had the request and didn't answer in time may be working on it: no second one (read=False).
    retry = Retry(
        connection.retries, read=False, status_forcelist=[503], backoff_factor=_BACKOFF, allowed_methods=None,
        raise_on_status=False, respect_retry_after_header=False,  # it may ask for hours
    )  # fmt: skip
    made.mount(connection.url, HTTPAdapter(max_retries=retry, pool_maxsize=MOST_CONNECTIONS))
    made.headers.update(connection.headers)
    if connection.tls is not None:
        from tfship.client.targets import tls

        tls.context(connection.tls)
        trusted = tls.authorities(connection.tls)
        made.verify = str(trusted) if trusted else True
        if connection.tls.certificate and connection.tls.key:
            made.cert = (str(connection.tls.certificate), str(connection.tls.key))
    return made


def open_target(choice: Choice) -> Opened:
    """Open the server's model that was chosen."""
    return served(choice, Rest(choice.connection or Connection(f"localhost:{REST_PORT}"), choice.servable))


class _Session(requests.Session):
    """Trusts whom it was told to: in requests' own, REQUESTS_CA_BUNDLE comes before a session's authorities."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        return super().merge_environment_settings(
            url, proxies, stream, self.verify if verify is None else verify, cert
        )


class Rest:
    """`POST <server>/v1/models/<model>[/versions/<version>]:predict`, over one kept connection.

    `predict` raises Unreachable where nothing answers in time and Refused with the server's own words where it
    says no. `binding` names the tensors of the servable's signature.
    """

    def __init__(
        self,
        connection: Connection,
        servable: Servable,
        binding: Binding = Binding(),  # noqa: B008 - frozen
    ) -> None:
        self._connection, self._servable = connection, servable
        self.binding = binding
        self._url = f"{connection.url}{servable.path}"
        self._session = session(connection)

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """See `Target.predict`; images as the binding says, encoded ones as dtype object [N]."""
        return self.answer(images).scores

    def answer(self, images: NDArray[Any]) -> Answer:
        """Do as `predict`; which version has answered isn't told."""
        return self.understood(self._ask("POST", ":predict", self.encoded(images)), len(images))

    def encoded(self, images: NDArray[Any]) -> bytes:
        """Return the body of a request."""
        instances: Any = np.ascontiguousarray(images)
        if images.dtype == object:
            instances = [{"b64": base64.b64encode(each).decode()} for each in images]
        # As many digits as float32 needs to come back as it was: json.dumps writes twice as many, in 16 times as long.
        body = {"signature_name": self._servable.signature, "instances": instances}
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)

    def understood(self, answer: Mapping[str, Any], count: int) -> Answer:
        """Return the scores of `count` images from the JSON object that was answered."""
        rows = answer.get("predictions")
        # Of a signature with several outputs, each row has all of them by name.
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            if self.binding.output not in rows[0]:
                raise Refused(
                    f"{self._url}: answered with {', '.join(rows[0])}; expected {self.binding.output}, as "
                    "`tfship export` names it"
                )
            rows = [row.get(self.binding.output) for row in rows]
        return Answer(checked(rows, count, self._url))

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures as the server describes them."""
        answer = self._ask("GET", "/metadata")
        try:
            found = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: Signature(_specs(each["inputs"]), _specs(each["outputs"]), each.get("method_name", ""))
                for name, each in found.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Refused(
                f"{self._url}/metadata: answered with something else than a model's signatures"
            ) from None

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _ask(self, method: str, what: str, body: bytes = b"") -> dict[str, Any]:
        """Return the server's JSON object."""
        url, timeout = self._url + what, self._connection.timeout
        try:
            answer, content = within(timeout, lambda: self._exchange(method, url, body))
        except (requests.Timeout, TimeoutError):
            remedy = self._explained() or f"no answer within {timeout:g} s; see --timeout"
            raise Unreachable(f"{url}: {remedy}") from None
        except requests.exceptions.ProxyError as error:
            raise Unreachable(
                f"{url}: the proxy on the way fails ({_reason(error)}); is it right in HTTP_PROXY or HTTPS_PROXY, or "
                "should NO_PROXY name the server?"
            ) from error
        except (requests.RequestException, ValueError) as error:  # ValueError: no name that a host can have
            remedy = self._explained() or (
                f"nothing answers with HTTP there ({_reason(error)}); is `tfship serve` running, and is this its "
                "REST port (8501, not gRPC's 8500)?"
            )
            raise Unreachable(f"{url}: {remedy}") from error
        try:
            parsed = json.loads(content)
            if answer.ok and not answer.is_redirect and isinstance(parsed, dict):
                return parsed
            reason = str(parsed["error"])
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{url}: {self._foreign(answer, len(body))}") from None
        raise Refused(f"{url}: HTTP {answer.status_code}: {reason}{_size(answer.status_code, len(body))}")

    def _exchange(self, method: str, url: str, body: bytes) -> tuple[requests.Response, bytes]:
        headers = {}
        if body:
            headers["Content-Type"] = "application/json"
            if self._connection.compresses and len(body) >= COMPRESSED_FROM:
                body, headers["Content-Encoding"] = gzip.compress(body, _GZIP_LEVEL), "gzip"
        # Redirects aren't followed: a request goes, with its API keys, where it was told to.
        with self._session.request(
            method, url, data=body, headers=headers, timeout=self._connection.timeout,
            allow_redirects=False, stream=True,
        ) as answer:  # fmt: skip
            content = bytearray()
            for block in answer.iter_content(1 << 16):
                content += block
                if len(content) > MOST_ANSWER:
                    raise Refused(
                        f"{url}: answers with more than {MOST_ANSWER >> 20} MiB; expected probabilities"
                    )
            return answer, bytes(content)

    def _foreign(self, answer: requests.Response, size: int) -> str:
        status = f"HTTP {answer.status_code}"
        if answer.is_redirect:
            return f"{status}, a redirect to {answer.headers['location']}; give that address as --server"
        if too_large := _size(answer.status_code, size):
            return status + too_large
        if answer.status_code in (401, 403):
            return f"{status}, {answer.reason}; give what the server or its proxy asks for by --header"
        hint = f"is {self._connection.server} a model server's REST port?"
        return f"{status}, but not as TensorFlow Serving answers; {self._explained() or hint}"

    def _explained(self) -> str | None:
        """Return what is wrong with the encryption, if that is it."""
        from tfship.client.targets import tls

        return tls.explain(self._connection)


def _size(status: int, size: int) -> str:
    if status != 413:
        return ""
    return (
        f": a request of {size / 2**20:.1f} MiB is more than it takes; raise its limit, send smaller pictures "
        "by --signature serving_bytes, or use --target grpc, whose tensors are a fifth of the size"
    )


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    specs = {}
    for name, each in tensors.items():
        shape = each["tensor_shape"]
        sizes = None if shape.get("unknown_rank") else tuple(int(dim["size"]) for dim in shape.get("dim", ()))
        specs[name] = TensorSpec(each.get("name", ""), _NUMBERS.get(each["dtype"], 0), sizes)
    return specs


def _reason(error: BaseException) -> str:
    """Return the innermost cause, which says it shortest: requests wraps urllib3 wraps the system's error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = getattr(error, "strerror", None) or str(error)
    # Of a server that speaks something else, the error holds its bytes.
    return text if text and text.isprintable() else type(error).__name__
