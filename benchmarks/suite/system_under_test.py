"""The rows of a benchmark: each format in this process, by threads and delegate, in a browser, and behind servers."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness.raw_requests import Address, GrpcSender, RestSender, Sender
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.harness.timer import Call, TimedElsewhere
from tfship.client.images import preprocessing
from tfship.client.images.preview import png
from tfship.client.targets.binding import Binding
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.grpc import Grpc
from tfship.client.targets.keras import Keras
from tfship.client.targets.rest import Rest
from tfship.export.conversion import formats
from tfship.export.preprocessing.input_contract import INDEPENDENT, SERVING_BYTES, Contract
from tfship.export.preprocessing.outputs import interpret, kind_of
from tfship.export.publishing import cards, verification
from tfship.export.runtimes import browser
from tfship.export.runtimes.browser import Browser, BrowserModel
from tfship.export.runtimes.protocol import PROBABILITIES, Classifier, Target
from tfship.serving.server.settings import cores

__all__ = [
    "BROWSER",
    "REST_BASE64",
    "OpenSubject",
    "Subject",
    "as_query",
    "in_browser",
    "in_process",
    "png",
    "served",
]

# The default delegate of LiteRT's interpreter, which logs it at the start.
XNNPACK = "XNNPACK"
REST_JSON, REST_BASE64, GRPC = "REST JSON", "REST base64", "gRPC"
# The rows in a browser: their names, and the options of `Browser`.
BROWSER: dict[str, dict[str, bool]] = {
    "browser, WASM": {},
    "browser, WASM threads": {"threads": True},
    "browser, WebGPU": {"webgpu": True},
}
_TIMEOUT = 60.0

Kind = Literal["tflite", "savedmodel", "keras", "browser", "served"]


class OpenSubject:
    """An open target, for timing and for accuracy. `encoded`: it takes encoded images, not tensors."""

    def __init__(self, target: Target, contract: Contract, *, encoded: bool = False) -> None:
        self._target, self._contract, self._encoded = target, contract, encoded

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return pixels uint8 [N, H, W, C] as one query: the model's input tensor, or PNGs [N]."""
        images = self._images(pixels)
        return self._target.prepare(images) if isinstance(self._target, Classifier) else images

    def run(self, query: NDArray[Any]) -> object:
        """Run a prepared query, which is timed as the model alone or as a request; return the result."""
        if isinstance(self._target, Classifier):
            return self._target.infer(query)
        return self._target.predict(query)

    def repeated(self, queries: Sequence[NDArray[Any]]) -> Call:
        """Return a call that runs the prepared `queries`, one after the other."""
        return lambda number: self.run(queries[number % len(queries)])

    def label(self, image: bytes) -> int:
        """Return the class of an encoded image, which is timed as end to end."""
        if self._encoded:
            return int(self._scores(as_query(image)).argmax())
        return int(
            self._scores(self._images(preprocessing.pixels(image, self._contract)[np.newaxis])).argmax()
        )

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities [N, classes] of pixels uint8 [N, H, W, C]."""
        return self._scores(self._images(pixels))

    def _images(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Return pixels uint8 [N, H, W, C] as the target's input: PNGs, unchanged pixels, or scaled values."""
        if self._encoded:
            return _objects([png(each) for each in pixels])
        takes_pixels = isinstance(self._target, Classifier) and self._target.takes_pixels
        return pixels if takes_pixels else self._contract.scale(pixels)

    def _scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores. The outputs of a Keras model are interpreted as in the export."""
        scores = self._target.predict(images)
        if not isinstance(self._target, Keras):
            return scores
        several = self._contract.outputs == INDEPENDENT
        return interpret(scores, self._target.kind(self._contract) or kind_of(scores, several))

    def close(self) -> None:
        """Close the target."""
        self._target.close()


class _InBrowser(OpenSubject):
    """A file for browsers, which the browser itself times."""

    def __init__(self, path: Path, contract: Contract, options: Mapping[str, bool]) -> None:
        with contextlib.ExitStack() as stack:
            started = stack.enter_context(contextlib.closing(Browser(**options)))
            self._model: BrowserModel = started.load(path)
            super().__init__(Classifier(self._model, str(path)), contract)
            self._opened = stack.pop_all()

    def repeated(self, queries: Sequence[NDArray[Any]]) -> Call:
        """See `OpenSubject.repeated`."""
        self._model.hold(np.concatenate(queries))

        def measure(numbers: range, lead_in: int) -> list[int]:
            times = self._model.measure(numbers.start, len(numbers), lead_in)
            return [round(each * 1e6) for each in times]

        return TimedElsewhere(measure)

    def close(self) -> None:
        """End the browser."""
        self._opened.close()


@dataclass(frozen=True)
class Subject:
    """One row. The schema of the result file describes the fields that `describe` returns.

    `open` opens the target for a number of concurrent callers; a server's target has one connection. `sender` opens a
    connection to a server, None in this process. `path` is the file or folder that is loaded, None behind a server.
    """

    name: str
    kind: Kind
    format: str
    threads: int | None
    delegate: str | None
    bytes: int
    sha256: str
    open: Callable[[int], OpenSubject]
    path: Path | None = None
    server: str | None = None
    protocol: str | None = None
    sender: Callable[[], Sender] | None = None

    @property
    def encoded(self) -> bool:
        """Whether it takes encoded images, not tensors."""
        return self.protocol == REST_BASE64

    @property
    def plain(self) -> bool:
        """Whether it runs with the defaults, one thread and the delegate, outside a browser; others are variants."""
        if self.kind == "browser":
            return False
        return self.kind != "tflite" or (self.threads == 1 and self.delegate is not None)

    @property
    def is_format(self) -> bool:
        """Whether it is a format in this process, not a variant of one."""
        return self.server is None and self.plain

    def describe(self) -> dict[str, Any]:
        """Return its fields for a result file."""
        return {
            field: getattr(self, field)
            for field in ("name", "kind", "format", "threads", "delegate", "server", "protocol", "bytes", "sha256")
        }  # fmt: skip


def in_process(
    version: Path,
    card: cards.ExportCard,
    contract: Contract,
    keras: Path | None,
    threads: Sequence[int],
    *,
    variants: bool,
    tensorflow: bool,
) -> list[Subject]:
    """Return the rows of an exported version that run in this process, the reference first.

    Each TFLite format runs with `threads[0]` threads and XNNPACK. `variants` adds the other numbers of threads, and
    `threads[0]` without XNNPACK. `tensorflow` adds the SavedModel, and the file `keras` unless that is None.
    """
    artefacts = {each["format"]: each for each in card.artefacts}
    found = [
        _tflite(version, row, artefacts[row.name], contract, number, xnnpack=xnnpack)
        for row in formats.FORMATS.values()
        if row.name in artefacts
        for number, xnnpack in _variants(threads)[: None if variants else 1]
    ]
    if not tensorflow:
        return found
    saved = artefacts[cards.SAVED_MODEL]
    found.append(
        Subject(
            "savedmodel", "savedmodel", "savedmodel", threads[0], None, saved["bytes"], saved["sha256"],
            lambda _: OpenSubject(verification.open_saved_model(version, threads[0]), contract), version,
        )
    )  # fmt: skip
    if keras is not None:
        found.append(
            Subject(
                "keras", "keras", "keras", None, None, keras.stat().st_size, card.keras_sha256,
                lambda _: OpenSubject(Keras(keras), contract), keras,
            )
        )  # fmt: skip
    return found


def _variants(threads: Sequence[int]) -> list[tuple[int, bool]]:
    """Return pairs of threads and XNNPACK; one of them changes at a time, so that a difference has one cause."""
    return [*((number, True) for number in threads), (threads[0], False)]


def _tflite(
    version: Path,
    row: formats.Format,
    artefact: dict[str, Any],
    contract: Contract,
    threads: int,
    *,
    xnnpack: bool,
) -> Subject:
    name = [row.name]
    if threads > 1:
        name.append(f"{threads} threads")
    if not xnnpack:
        name.append(f"no {XNNPACK}")

    def opened(at_once: int) -> OpenSubject:
        return OpenSubject(
            verification.open_tflite(version, row, threads, at_once, xnnpack=xnnpack), contract
        )

    return Subject(
        ", ".join(name), "tflite", row.name, threads, XNNPACK if xnnpack else None,
        artefact["bytes"], artefact["sha256"], opened, version / row.file,
    )  # fmt: skip


def in_browser(
    version: Path, card: cards.ExportCard, contract: Contract
) -> tuple[list[Subject], dict[str, str]]:
    """Return the rows of the reference's file for browsers, and the missing ones of `BROWSER`, with the reason."""
    found = next((each for each in card.web if each["format"] == formats.REFERENCE and "file" in each), None)
    reason = browser.unavailable()
    if found is None:
        reason = f"the version has no {formats.REFERENCE} file for browsers; export the model again"
    if found is None or reason:
        return [], dict.fromkeys(BROWSER, reason)
    path = version / found["file"]
    absent = {}
    if refusal := browser.webgpu_refusal(path):
        absent["browser, WebGPU"] = refusal

    def opened(options: Mapping[str, bool]) -> Callable[[int], OpenSubject]:
        return lambda _: _InBrowser(path, contract, options)

    rows = [
        Subject(
            name, "browser", formats.REFERENCE, cores() if "threads" in options else 1,
            None if "webgpu" in options else XNNPACK, found["bytes"], found["sha256"], opened(options), path,
        )
        for name, options in BROWSER.items()
        if name not in absent
    ]  # fmt: skip
    return rows, absent


def served(
    server: str, addresses: Addresses, version: Path, card: cards.ExportCard, contract: Contract, format_: str
) -> list[Subject]:
    """Return the rows of a server that serves `format_`, a TFLite format or the SavedModel: one for each protocol.

    A TFLite file has no signature for encoded images, so it has no row for base64.
    """
    artefact = next(each for each in card.artefacts if each["format"] == format_)
    number = int(version.name)
    plain = Servable(contract.model, number)
    ways: list[tuple[str, Callable[..., Target], Callable[[Address], Sender], Address]] = [
        (REST_JSON, Rest, RestSender, Address(Connection(addresses.rest, timeout=_TIMEOUT), plain, Binding())),
        (GRPC, Grpc, GrpcSender, Address(Connection(addresses.grpc, timeout=_TIMEOUT), plain, Binding())),
    ]  # fmt: skip
    if format_ == cards.SAVED_MODEL:
        bytes_ = Address(
            Connection(addresses.rest, timeout=_TIMEOUT),
            Servable(contract.model, number, signature=SERVING_BYTES),
            Binding("image_bytes", PROBABILITIES, "string"),
        )
        ways.insert(1, (REST_BASE64, Rest, RestSender, bytes_))

    def opened(protocol: str, kind: Callable[..., Target], address: Address) -> Callable[[int], OpenSubject]:
        return lambda _: OpenSubject(
            kind(address.connection, address.servable, address.binding),
            contract,
            encoded=protocol == REST_BASE64,
        )

    def sending(kind: Callable[[Address], Sender], address: Address) -> Callable[[], Sender]:
        return lambda: kind(address)

    return [
        Subject(
            f"{server}, {protocol}", "served", format_, 1, None, artefact["bytes"], artefact["sha256"],
            opened(protocol, target, address), None, server, protocol, sending(sender, address),
        )
        for protocol, target, sender, address in ways
    ]  # fmt: skip


def as_query(image: bytes) -> NDArray[Any]:
    """Return a query with one encoded image, an array of objects [1]."""
    return _objects([image])


def _objects(values: Sequence[bytes]) -> NDArray[Any]:
    found = np.empty(len(values), object)
    found[:] = values
    return found
