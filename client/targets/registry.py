"""What can answer, as rows of one table; each opens in a file of its own, imported only when it is asked for."""

import contextlib
import importlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import Binding, by_contract, by_signature, checked
from tfship.client.targets.connection import Connection, Servable
from tfship.client.targets.interpretation import Interpretation
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.runtimes.protocol import Classifier, Runtime, Signature, Target
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError, Refused, UsageError

__all__ = ["TARGETS", "Choice", "Kind", "Opened", "in_process", "open_target", "parse", "served"]


@dataclass(frozen=True)
class Kind:
    """One kind of target: `client.<module>.open_target` opens it.

    `package` is what it imports, `extra` what installs that, and `served` whether it is a server.
    """

    name: str
    what: str
    module: str
    package: str
    extra: str = ""
    served: bool = False


TARGETS = {
    row.name: row
    for row in (
        Kind("rest", "a model server's REST API", "rest", "requests", served=True),
        Kind("grpc", "a model server's gRPC API", "grpc", "grpc", served=True),
        Kind("tflite", "a TFLite file, in this process", "tflite", "ai_edge_litert", "tflite"),
        Kind("savedmodel", "a SavedModel, in this process", "saved_model", "tensorflow", "tensorflow"),
        Kind("keras", "a .keras file, in this process", "keras", "tensorflow", "tensorflow"),
    )
}


@dataclass(frozen=True)
class Choice:
    """What was asked for: a kind of target and what of it.

    `path` is what stands behind the kind's colon: a file or a folder. Without it, `servable` is looked for in the
    folder `models`. `contract` is a contract.json or the version directory that holds one, and comes before any
    that is found; `connection` is for kinds that are served.
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
        """Return the directory of the version asked for, or of the newest; ArtifactError if there is none."""
        from tfship.export.publishing import store

        base = base or self.base
        number = self.servable.version
        if number is None:
            return store.latest(base)
        found = store.versions(base)
        if number not in found:
            listed = ", ".join(map(str, found)) or "none"
            raise ArtifactError(f"{base}: holds no version {number}; there are {listed}")
        return found[number]

    def contract_of_servable(self) -> Contract | None:
        """Return the contract of the version asked for, or of the newest, in the folder `models`, if there is one."""
        from tfship.export.publishing import store

        found = store.versions(self.base)
        return self.contract_beside(found.get(self.servable.version or max(found, default=0)))

    def contract_beside(self, path: Path | None) -> Contract | None:
        """Return the contract asked for, or that of the version directory that `path` lies in, if there is one."""
        if self.contract is not None:
            return contracts.read(self.contract)
        for folder in (path, *path.parents) if path is not None else ():
            if (folder / contracts.CONTRACT).is_file():
                return contracts.read(folder)
        return None

    def located(self, inside: str) -> Path:
        """Return the path asked for if it is a file or holds `inside`, else the version directory that does.

        A path may be a servable's base directory.
        """
        if not self.path:
            return self.version()
        path = Path(self.path)
        if not path.exists():
            raise ArtifactError(f"{path}: no such file or folder")
        return path if path.is_file() or (path / inside).exists() else self.version(path)


@dataclass(frozen=True)
class Opened:
    """What answers, how images are prepared for it, which form of them it takes, and what its answers mean.

    `where` names it.
    """

    target: Target
    contract: Contract
    binding: Binding
    where: str
    interpretation: Interpretation

    def ask(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return raw scores float32 [N, K], for the interpretation, of N images in the form that the binding says.

        Raises Refused for images that the model doesn't take, and for answers that are no scores.
        """
        answers = [self._answer(images[part]) for part in self.binding.parts(len(images))]
        return self.interpretation.read(np.concatenate(answers))

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the scores float32 [N, classes], interpreted by the answers so far; see `ask`."""
        return self.interpretation.scores(self.ask(images))

    def _answer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        rows = self.binding.rows(images)
        try:
            answer = self.target.predict(rows)
        except ValueError as error:  # a runtime's, for what the model refuses
            raise Refused(f"{self.where}: {error}") from error
        return checked(answer, len(rows), self.where)[: len(images)]


class ServedTarget(Target, Protocol):
    """A target that can be asked for its signatures."""

    binding: Binding

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures as the server describes them."""


def parse(text: str) -> tuple[Kind, str]:
    """Return the kind and the path of `KIND` or `KIND:PATH`; UsageError for others."""
    name, colon, path = text.partition(":")
    kind = TARGETS.get(name)
    if kind is None:
        local = ", ".join(f"{each.name}[:PATH]" for each in TARGETS.values() if not each.served)
        raise UsageError(f"--target {text}: expected rest, grpc, {local}")
    if colon and (kind.served or not path):
        expected = "its address in --server" if kind.served else "a path behind the colon"
        raise UsageError(f"--target {text}: expected {expected}")
    return kind, path


def open_target(choice: Choice) -> Opened:
    """Open what was chosen. Raises UsageError for what isn't installed, and what the kinds themselves raise."""
    kind = choice.kind
    missing = cli.missing(f"--target {kind.name}", kind.package, kind.extra)
    if importlib.util.find_spec(kind.package) is None:
        raise missing
    # gRPC's own lines on stderr, one for each attempt, say less than the error does; read when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        opened: Opened = importlib.import_module(f"tfship.client.targets.{kind.module}").open_target(choice)
    except ImportError as error:
        raise UsageError(f"{missing} ({error})") from error  # its own words: it may be there and broken
    return opened


def served(choice: Choice, target: ServedTarget) -> Opened:
    """Return a server's target, opened: bound by what the server says of the model.

    A version may be served from another file than its contract describes, such as one that takes pixels.
    """
    own, signature = choice.contract_of_servable(), choice.servable.signature
    contract = own or contracts.digits(choice.servable.name)
    where = f"{choice.connection.server if choice.connection else ''}, model {choice.servable.name}"
    with contextlib.ExitStack() as stack:
        stack.callback(target.close)
        try:
            binding = by_signature(target.signatures(), signature, contract, where)
        except Refused:
            # A gateway may let nothing through but predictions.
            known = by_contract(own, signature) if own else None
            if known is None:
                raise
            binding = known
        stack.pop_all()
    target.binding = binding
    return Opened(target, contract, binding, where, Interpretation(where, binding, own))


def in_process(choice: Choice, path: Path, runtime: Runtime) -> Opened:
    """Return a model file that was loaded from `path`, opened: bound by what it says of itself."""
    own, signature = choice.contract_beside(path), choice.servable.signature
    contract = own or contracts.digits(choice.servable.name)
    binding = by_signature(runtime.signatures, signature, contract, str(path))
    target = Classifier(runtime, str(path), signature, binding.output)
    return Opened(target, contract, binding, str(path), Interpretation(str(path), binding, own))
