"""Registry of the kinds of targets. Each kind is one row, and opens in a module that is imported only when used."""

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import Binding, RawScores, bound, checked
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.interpretation import Interpretation
from tfship.export.conversion.formats import FORMATS, REFERENCE, Format
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.runtimes.protocol import Classifier, Runtime, Signature
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, Refused, UsageError

__all__ = ["TARGETS", "Choice", "Kind", "Opened", "Transport", "in_process", "open_target", "parse", "served"]


@dataclass(frozen=True)
class Kind:
    """One kind of target; `client.targets.<module>.open_target` opens it.

    `what` describes it in `--help`. It needs `package`, which `extra` installs. `served`: it is a server. `slow` says
    what takes seconds at its start.
    """

    name: str
    what: str
    module: str
    package: str
    extra: str = ""
    served: bool = False
    slow: str = ""


_TENSORFLOW, _CHROMIUM = "loads TensorFlow", "starts Chromium"

TARGETS = {
    row.name: row
    for row in (
        Kind("rest", "a model server's REST API", "rest", "requests", served=True),
        Kind("grpc", "a model server's gRPC API", "grpc", "grpc", served=True),
        Kind("tflite", "a TFLite file, in this process", "tflite", "ai_edge_litert", "tflite"),
        Kind(
            "web",
            "a TFLite file for browsers, in headless Chromium",
            "web",
            "playwright",
            "web",
            slow=_CHROMIUM,
        ),
        Kind(
            "savedmodel",
            "a SavedModel, in this process",
            "saved_model",
            "tensorflow",
            "tensorflow",
            slow=_TENSORFLOW,
        ),
        Kind(
            "keras", "a .keras file, in this process", "keras", "tensorflow", "tensorflow", slow=_TENSORFLOW
        ),
    )
}


@dataclass(frozen=True)
class Choice:
    """The target that the command line chooses.

    `path` is the file or folder after the kind's colon; without it, `servable` is looked up in the folder `models`.
    `contract` is a contract.json or the version directory that holds one, and takes precedence over any that is found.
    `connection` is set for servers only.
    """

    kind: Kind
    servable: Servable
    models: Path
    path: str = ""
    contract: Path | None = None
    connection: Connection | None = None

    @property
    def base(self) -> Path:
        """The servable's base directory."""
        return self.models / self.servable.name

    def version(self, base: Path | None = None) -> Path:
        """Return the directory of the chosen version, or of the newest. Raises ArtifactError if there is none."""
        from tfship.export.publishing import store

        return store.version(base or self.base, self.servable.version)

    def contract_of_servable(self) -> Contract | None:
        """Return the contract of the chosen version, or of the newest, in `models`; None if there is none."""
        from tfship.export.publishing import store

        found = store.versions(self.base)
        return self.contract_near(found.get(self.servable.version or max(found, default=0)))

    def contract_near(self, path: Path | None) -> Contract | None:
        """Return the chosen contract, or that of the version directory that contains `path`; None if there is none."""
        if self.contract is not None:
            return contracts.read(self.contract)
        for folder in (path, *path.parents) if path is not None else ():
            if (folder / contracts.CONTRACT).is_file():
                return contracts.read(folder)
        return None

    @property
    def format(self) -> str:
        """The TFLite format that is chosen instead of a path, "" if none is."""
        return self.path if self.path in FORMATS and not Path(self.path).exists() else ""

    def locate_format(self, file_of: Callable[[Format], str]) -> Path:
        """Return the file that is chosen by path, or that of the chosen format, by default float32, in the version.

        `file_of` returns a format's file, relative to a version directory. Raises what `locate` does.
        """
        file = file_of(FORMATS[self.format or REFERENCE])
        path = (replace(self, path="") if self.format else self).locate(file)
        return path if path.is_file() else path / file

    def locate(self, inside: str) -> Path:
        """Return the chosen path if it is a file or a folder with `inside`, else the version directory below it.

        Without a path, returns the chosen version's directory. Raises ArtifactError if there is none.
        """
        if not self.path:
            return self.version()
        path = Path(self.path)
        if not path.exists():
            raise ArtifactError(f"{path}: no such file or folder")
        return path if path.is_file() or (path / inside).exists() else self.version(path)


class Transport(Protocol):
    """The protocol between the client and a model: a server's API, or a runtime in this process.

    `binding` is set before `send` is called.
    """

    binding: Binding

    def signatures(self) -> Mapping[str, Signature]:
        """Return the model's signatures by name. Raises Refused if a server doesn't report them."""

    def send(self, images: NDArray[Any]) -> RawScores:
        """Return the raw scores of images in the binding's form, encoded ones as dtype object [N].

        Raises Unreachable if no server responds in time, and Refused if the model refuses the images or returns no
        scores.
        """

    def close(self) -> None:
        """Free the model or the connection."""


class InProcess:
    """A model file in this process, as a `Transport`; `where` names it in messages."""

    def __init__(self, runtime: Runtime, where: str, signature: str) -> None:
        self._runtime, self._where, self._signature = runtime, where, signature
        self.binding = Binding()

    def signatures(self) -> Mapping[str, Signature]:
        """See `Transport.signatures`."""
        return self._runtime.signatures

    def send(self, images: NDArray[Any]) -> RawScores:
        """See `Transport.send`."""
        try:
            scores = self._classifier.predict(images)
        except ValueError as error:  # raised by runtimes for inputs that the model refuses
            raise Refused(f"{self._where}: {error}") from error
        return RawScores(checked(scores, len(images), self._where))

    def close(self) -> None:
        """See `Transport.close`."""
        self._runtime.close()

    @functools.cached_property
    def _classifier(self) -> Classifier:
        return Classifier(self._runtime, self._where, self._signature, self.binding.output)


@dataclass(frozen=True)
class Opened:
    """A target, bound to a signature; `where` names it in messages.

    `contract` says how images are prepared, `binding` in which form they are sent, `interpretation` what scores mean.
    """

    target: Transport
    contract: Contract
    binding: Binding
    where: str
    interpretation: Interpretation

    def raw_scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return raw scores float32 [N, K] of N images in the binding's form, recorded by the interpretation.

        Raises what `Transport.send` and `Interpretation.read` do.
        """
        parts = [images[part] for part in self.binding.parts(len(images))]
        scores = [self.target.send(self.binding.rows(part)).scores[: len(part)] for part in parts]
        return self.interpretation.read(np.concatenate(scores))

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return scores float32 [N, classes], interpreted by all scores so far; see `raw_scores`."""
        return self.interpretation.scores(self.raw_scores(images))


def parse(text: str) -> tuple[Kind, str]:
    """Return kind and path of `KIND` or `KIND:PATH`. Raises UsageError for anything else."""
    name, colon, path = text.partition(":")
    kind = TARGETS.get(name)
    if kind is None:
        local = ", ".join(f"{each.name}[:PATH]" for each in TARGETS.values() if not each.served)
        raise UsageError(f"--target {text}: expected rest, grpc, {local}")
    if colon and (kind.served or not path):
        expected = "its address in --server" if kind.served else "a path after the colon"
        raise UsageError(f"--target {text}: expected {expected}")
    return kind, path


def open_target(choice: Choice) -> Opened:
    """Open the chosen target. Raises UsageError if its package isn't installed, and what its module raises."""
    kind = choice.kind
    missing = cli.missing(f"--target {kind.name}", kind.package, kind.extra)
    if importlib.util.find_spec(kind.package) is None:
        raise missing
    # gRPC logs each attempt, and less than the error says. It reads the variable when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        opened: Opened = importlib.import_module(f"tfship.client.targets.{kind.module}").open_target(choice)
    except ImportError as error:
        raise UsageError(f"{missing} ({error})") from error  # the package may be installed but broken
    return opened


def served(choice: Choice, kind: Callable[[Connection, Servable], Transport], port: int) -> Opened:
    """Open a server's model, by default at `port` of this machine. `kind` creates the transport."""
    connection, own = choice.connection or Connection(f"localhost:{port}"), choice.contract_of_servable()
    where = f"{connection.server}, model {choice.servable.name}"
    return _bind(kind(connection, choice.servable), choice, own, where)


def in_process(
    choice: Choice, path: Path, runtime: Runtime, own: Contract | None, kind: str | None = None
) -> Opened:
    """Open a model file that `runtime` has loaded from `path`.

    `own` is the model's contract, None if there is none. `kind` is the kind of its outputs, None if the values decide.
    """
    return _bind(InProcess(runtime, str(path), choice.servable.signature), choice, own, str(path), kind)


def _bind(
    target: Transport, choice: Choice, own: Contract | None, where: str, kind: str | None = None
) -> Opened:
    """Bind a target by its reported signatures: a server may serve another file than its contract describes."""
    contract = own or contracts.digits(choice.servable.name)
    found: Mapping[str, Signature] | Refused
    with contextlib.ExitStack() as stack:
        stack.callback(target.close)
        try:
            found = target.signatures()
        except Refused as error:
            found = error
        target.binding = bound(found, choice.servable.signature, contract, where, own)
        stack.pop_all()
    return Opened(target, contract, target.binding, where, Interpretation(where, target.binding, own, kind))
