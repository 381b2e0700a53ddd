"""Common parts of `Client` and `AsyncClient`: arguments, queries and predictions."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.client.api import inputs
from tfship.client.api.inputs import Query
from tfship.client.cli.output import named, rank
from tfship.client.images.batches import Exchange, exchange
from tfship.client.targets.binding import Binding, RawScores, bound
from tfship.client.targets.connection import Connection, Servable, Tls
from tfship.client.targets.interpretation import SCORES, Interpretation
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import INDEPENDENT, PROBABILITIES_OF_CLASSES, Contract
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.train.common.errors import DataError, Refused, UsageError

__all__ = ["BaseClient", "Prediction", "enumerated"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's prediction for one image.

    `label` is the class with the highest score, and `probability` its probability, 0.0 to 1.0, None if the score isn't
    one. `scores` maps all labels to their scores, the highest first. If the contract has another number of labels than
    the model has classes, they are "0", "1" and so on. `version` is the number of the model's version, None over REST,
    which doesn't report it.

    `meaning` is that of the scores: "probabilities", which sum to 1; "independent", each the probability of one label;
    or "scores", within 0…1 without a sum of 1, from a model whose contract wasn't given. Logits have been turned into
    probabilities, by softmax or sigmoid.
    """

    label: str
    probability: float | None
    scores: Mapping[str, float] = field(hash=False, repr=False)
    version: int | None = None
    meaning: str = PROBABILITIES_OF_CLASSES

    @classmethod
    def of(
        cls, scores: NDArray[np.float32], contract: Contract, version: int | None, meaning: str
    ) -> "Prediction":
        """Return the prediction for scores [classes], by the contract's labels."""
        ranked = rank(scores, contract.labels)
        label, score = ranked[0]
        return cls(label, None if meaning == SCORES else score, dict(ranked), version, meaning)

    @property
    def score(self) -> float:
        """The score of `label`."""
        return self.scores[self.label]

    @property
    def probabilities(self) -> Mapping[str, float]:
        """The scores if they are probabilities, else an empty mapping."""
        return {} if self.meaning == SCORES else self.scores

    @property
    def labels(self) -> tuple[str, ...]:
        """The image's labels, best first: independent labels with at least 50 %, else `label` alone."""
        if self.meaning == INDEPENDENT:
            return tuple(named(list(self.scores.items())))
        return (self.label,)


class BaseClient:
    """The arguments of both clients, checked; documented at `client.api.client.Client`."""

    def __init__(
        self,
        address: str = "localhost:8500",
        *,
        model: str = "cnn",
        version: int | None = None,
        label: str | None = None,
        signature: str = DEFAULT_SIGNATURE,
        contract: Contract | str | os.PathLike[str] | None = None,
        tls: Tls | bool = False,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        retries: int = 2,
        gzip: bool | None = None,
    ) -> None:
        self._is_rest, server, encrypted = _located(address, tls)
        self._connection = Connection(server, encrypted, dict(headers or {}), timeout, retries, gzip)
        if encrypted is not None:
            # Reports invalid keys now rather than with the first image.
            from tfship.client.targets import tls as encryption

            encryption.context(encrypted)
        self._servable = Servable(model, version, label, signature)
        self._own_contract = _contract(contract)
        self._contract = self._own_contract or contracts.digits(model)
        self._where = f"{server}, model {model}"
        self._lock = threading.Lock()  # for the next three attributes
        self._target: Any = None
        self._binding: Binding | None = None
        self._interpretations: dict[tuple[int | None, int], Interpretation] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where})"

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self!r} is closed; create another, or close this one later")

    def _bind(self, target: Any, found: Mapping[str, Signature] | Refused) -> Binding:
        """Return the target's binding, by the signatures that it reports or its refusal to report them."""
        binding = bound(found, self._servable.signature, self._contract, self._where, self._own_contract)
        target.binding = self._binding = binding
        return binding

    def _query(self, image: object, binding: Binding, name: str = "image") -> Query:
        return inputs.prepared(image, self._contract, binding.dtype, inputs.name_of(image, name))

    def _numbered(self, number: int, image: object, binding: Binding, strict: bool) -> Query:
        name = f"image {number}"
        try:
            return self._query(image, binding, name)
        except DataError as error:
            if strict:
                raise
            # A new error: the traceback of the raised one keeps the image in memory.
            return Query(inputs.name_of(image, name), error=DataError(str(error)))

    def _exchange(self, batch: Sequence[Query], binding: Binding, strict: bool = True) -> Exchange:
        """See `exchange`. Raises the batch's first error if `strict`."""
        yield from exchange(batch, binding, self._read)
        if strict and (errors := [each.error for each in batch if each.error]):
            raise errors[0]

    def _read(self, raw: RawScores) -> NDArray[np.float32]:
        """Record raw scores and return them as real numbers. Raises Refused for integers of unknown scale."""
        # Versions may differ in the kind of their scores.
        key = (raw.version, raw.scores.shape[1])
        with self._lock:
            found = self._interpretations.setdefault(
                key, Interpretation(self._where, self._binding or Binding(), self._own_contract)
            )
            return found.read(raw.scores)

    def _outcome(self, query: Query) -> Any:
        """Return the prediction for an image, or its error."""
        return self._prediction(query) if query.error is None else query.error

    def _prediction(self, query: Query) -> Prediction:
        """Return the prediction for an image, its scores interpreted by all scores so far."""
        scores = query.scores
        assert scores is not None  # noqa: S101
        found = self._interpretations[query.version, len(scores)]
        return Prediction.of(
            found.scores(scores[np.newaxis])[0], self._contract, query.version, found.meaning
        )


def enumerated(images: Iterable[Any], errors: str) -> Iterator[tuple[int, Any]]:
    """Return images with their numbers, from 1. Raises UsageError for a single image, and for an invalid `errors`."""
    if errors not in ("raise", "return"):
        raise UsageError(f"errors={errors!r}: expected 'raise' or 'return'")
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        raise UsageError(
            f"one image of type {type(images).__name__}; expected several; call predict for one image"
        )
    try:
        return enumerate(images, 1)
    except TypeError:
        raise UsageError(
            f"images of type {type(images).__name__}; expected a list or another iterable"
        ) from None


def _located(address: str, tls: Tls | bool) -> tuple[bool, str, Tls | None]:
    """Return whether an address is REST's, its host:port, and its encryption. Raises UsageError for an invalid one."""
    encrypted = Tls() if tls is True else tls or None
    scheme, separator, _ = address.partition("://")
    if not separator or scheme == "unix":
        if not separator and not address.startswith("unix:") and not address.rpartition(":")[2].isdecimal():
            raise UsageError(
                f"{address!r}: expected host:port for gRPC, such as localhost:8500, or an http:// or https:// URL for "
                "REST"
            )
        return False, address, encrypted
    if scheme.lower() not in ("http", "https"):
        raise UsageError(
            f"an address of {scheme}://: expected host:port for gRPC, http:// or https:// for REST"
        )
    try:
        url = urlsplit(address)
    except ValueError as error:
        raise UsageError(f"{address!r}: not a URL ({error}); expected http://host:port") from None
    if url.username is not None or url.password is not None:
        raise UsageError(
            f"a URL with a user name or a password; expected http://{url.hostname}:…, with credentials in headers="
        )
    if url.path.strip("/") or url.query or url.fragment or not url.netloc:
        raise UsageError(f"{address!r}: expected {scheme}://host:port, and nothing after it")
    if encrypted is not None and url.scheme == "http":
        raise UsageError(f"{address!r} with tls: expected https://")
    return True, url.netloc, encrypted or (Tls() if url.scheme == "https" else None)


def _contract(given: Contract | str | os.PathLike[str] | None) -> Contract | None:
    return given if given is None or isinstance(given, Contract) else contracts.read(Path(given))
