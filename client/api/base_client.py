"""What `Client` and `AsyncClient` share: what they are told, and what they make of images and answers."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.client.api import inputs
from tfship.client.cli.output import named, rank
from tfship.client.images import batches
from tfship.client.targets.binding import Answer, Binding, by_contract, by_signature
from tfship.client.targets.connection import Connection, Servable, Tls
from tfship.client.targets.interpretation import SCORES, Interpretation
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import INDEPENDENT, PROBABILITIES_OF_CLASSES, Contract
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, Signature
from tfship.train.common.errors import DataError, Refused, TfshipError, UsageError

__all__ = ["Asked", "Configured", "Prediction", "culprits", "several", "stacked"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one image.

    `label` is the class with the highest score and `probability` its probability, 0.0 to 1.0, or None if the score is
    none. `scores` has all classes' by their labels, the highest first; classes without a name, where the contract names
    another number of them, are called "0", "1" and so on. `version` is the number of the model's version that has
    answered, None over REST, which doesn't tell.

    `meaning` says what the scores are: "probabilities", which sum to 1; "independent", each the probability of its own
    label; or "scores", which are within 0…1 and don't sum to 1, from a model whose contract wasn't given. Logits have
    become probabilities by the softmax, or the sigmoid.
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
        """Return what scores [classes] mean by the contract's labels."""
        ranked = rank(scores, contract.labels)
        label, score = ranked[0]
        return cls(label, None if meaning == SCORES else score, dict(ranked), version, meaning)

    @property
    def score(self) -> float:
        """The score of `label`."""
        return self.scores[self.label]

    @property
    def probabilities(self) -> Mapping[str, float]:
        """The scores if they are probabilities, else nothing."""
        return {} if self.meaning == SCORES else self.scores

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the image has, best first: of independent ones those from 50 % on, else `label`."""
        if self.meaning == INDEPENDENT:
            return tuple(named(list(self.scores.items())))
        return (self.label,)


@dataclass(slots=True)
class Asked:
    """An image: `row` is what the signature takes, `answer` its raw scores [1, K], `error` why it has none."""

    name: str
    row: Any = None
    answer: Answer | None = None
    error: TfshipError | None = None


class _Bound(Protocol):
    binding: Binding


class Configured:
    """What both clients are told, checked; `client.api.client.Client` says what it means."""

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
            # Keys of no use are found here rather than with the first image.
            from tfship.client.targets import tls as encryption

            encryption.context(encrypted)
        self._servable = Servable(model, version, label, signature)
        self._given = _contract(contract)
        self._contract = self._given or contracts.digits(model)
        self._where = f"{server}, model {model}"
        self._lock = threading.Lock()  # of the next three
        self._target: Any = None
        self._binding: Binding | None = None
        self._interpretations: dict[tuple[int | None, int], Interpretation] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where})"

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(f"{self!r} is closed; make another, or close this one later")

    def _bind(self, target: _Bound, found: Mapping[str, Signature] | Refused) -> Binding:
        """Return the target's binding, by the signatures that it has told or its refusal to tell."""
        name = self._servable.signature
        if isinstance(found, Refused):
            # A gateway may let nothing through but predictions.
            binding = by_contract(self._given, name) if self._given else None
            if binding is None:
                raise found
        else:
            binding = by_signature(found, name, self._contract, self._where)
        target.binding = self._binding = binding
        return binding

    def _row(self, image: object, name: str, binding: Binding) -> Any:
        return inputs.row(image, self._contract, binding.dtype, inputs.name_of(image, name))

    def _prepared(self, number: int, image: object, binding: Binding, strict: bool) -> Asked:
        name = inputs.name_of(image, f"picture {number}")
        try:
            return Asked(name, self._row(image, name, binding))
        except DataError as error:
            if strict:
                raise
            # One that wasn't raised: the frames that this came through hold the image.
            return Asked(name, error=DataError(str(error)))

    def _read(self, asked: Sequence[Asked], answer: Answer) -> None:
        """Take an answer to these images into account. Raises Refused for scores of an unknown scale."""
        # Another version may answer something else.
        key = (answer.version, answer.scores.shape[1])
        with self._lock:
            found = self._interpretations.setdefault(
                key, Interpretation(self._where, self._binding or Binding(), self._given)
            )
            scores = found.read(answer.scores[: len(asked)])
        for place, each in enumerate(asked):
            each.row, each.answer = None, Answer(scores[place : place + 1], answer.version)

    def _outcome(self, asked: Asked) -> Any:
        """Return the prediction of an image, or its error."""
        return self._prediction(asked) if asked.error is None else asked.error

    def _prediction(self, asked: Asked) -> Prediction:
        """Return what an image's answer means, by all answers so far."""
        assert asked.answer is not None  # noqa: S101
        scores, version = asked.answer
        found = self._interpretations[version, scores.shape[1]]
        return Prediction.of(found.scores(scores)[0], self._contract, version, found.meaning)


def several(images: Iterable[Any], errors: str) -> Iterator[tuple[int, Any]]:
    """Yield images with their numbers, from 1; UsageError where there is but one, or `errors` is no known word."""
    if errors not in ("raise", "return"):
        raise UsageError(f"errors={errors!r}: expected 'raise' or 'return'")
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        raise UsageError(f"one image of type {type(images).__name__}; expected several, or predict for one")
    try:
        return enumerate(images, 1)
    except TypeError:
        raise UsageError(f"images of type {type(images).__name__}; expected a list, or the like") from None


def stacked(rows: Sequence[Any], binding: Binding) -> NDArray[Any]:
    """Return rows as the tensor that the signature takes."""
    return binding.rows(batches.stacked(rows))


def culprits(asked: Sequence[Asked], refusal: Refused, *, strict: bool) -> None:
    """Raise what must be raised when images were asked for one by one, because all together met with `refusal`."""
    refused = [each.error for each in asked if isinstance(each.error, Refused)]
    if len(refused) == len(asked):
        raise refusal  # it isn't the images
    if strict and refused:
        raise refused[0]


def _located(address: str, tls: Tls | bool) -> tuple[bool, str, Tls | None]:
    """Return whether REST is spoken at an address, where that is, host:port, and by which encryption."""
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
            f"a URL with a name or a password in it; expected http://{url.hostname}:…, and headers="
        )
    if url.path.strip("/") or url.query or url.fragment or not url.netloc:
        raise UsageError(f"{address!r}: expected {scheme}://host:port, and nothing behind it")
    if encrypted is not None and url.scheme == "http":
        raise UsageError(f"{address!r} with tls: expected https://")
    return True, url.netloc, encrypted or (Tls() if url.scheme == "https" else None)


def _contract(given: Contract | str | os.PathLike[str] | None) -> Contract | None:
    return given if given is None or isinstance(given, Contract) else contracts.read(Path(given))
