"""Keras files in this process: the model as it was trained. Loads TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.registry import Choice, Opened, in_process
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing import outputs
from tfship.export.preprocessing.input_contract import INDEPENDENT, Contract
from tfship.export.runtimes.protocol import (
    DEFAULT_SIGNATURE,
    IMAGE,
    PREDICT,
    PROBABILITIES,
    Signature,
    TensorSpec,
)
from tfship.export.sources import model_loading
from tfship.train import cards
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["Keras", "open_target"]

# TensorFlow's DataType number of float32.
_FLOAT = 1


def open_target(choice: Choice) -> Opened:
    """Open the `.keras` file that was chosen: by its path or its folder's, or the trained one, or the released one.

    Raises UsageError for a signature or a version, and what `export.sources.model_loading.load` does.
    """
    if choice.servable.signature != DEFAULT_SIGNATURE:
        raise UsageError("--signature with --target keras: a .keras file has no signatures; omit it")
    path = _file(choice)
    near = choice.contract_near(path) if choice.path else None
    own = near or choice.contract_of_servable()
    contract = own or contracts.digits(choice.servable.name)
    model = Keras(path, (contract.height, contract.width))
    return in_process(choice, path, model, own, model.kind(contract))


def _file(choice: Choice) -> Path:
    name = f"{choice.servable.name}.keras"
    if choice.path:
        path = Path(choice.path)
        return path / name if path.is_dir() else path
    if choice.servable.version is not None:
        raise UsageError("--version with --target keras: a .keras file has no versions; omit it")
    folder = cards.locate(choice.models, choice.servable.name)
    if folder != choice.models:
        cli.say(f"{choice.models / name} doesn't exist; using the released model {folder / name}")
    return folder / name


class Keras:
    """A Keras classifier with one image input and one output, as a `Runtime`.

    `size` is (height, width) of an image, for a model that takes flat rows or images of any size. Raises what
    `export.sources.model_loading.load` does.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None = None) -> None:
        self._model = model_loading.load(path, size)

    @property
    def signatures(self) -> dict[str, Signature]:
        """The default signature, with the export's names of input and output."""
        image = TensorSpec(IMAGE, _FLOAT, (self._model.batch or -1, *self._model.shape))
        scores = TensorSpec(PROBABILITIES, _FLOAT, (-1, self._model.outputs))
        return {DEFAULT_SIGNATURE: Signature({IMAGE: image}, {PROBABILITIES: scores}, PREDICT)}

    def run(self, signature: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: ARG002
        """See `Runtime.run`; there is one signature."""
        return {PROBABILITIES: self.predict(inputs[IMAGE])}

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the model's raw outputs float32 [N, K]; see `kind`."""
        return np.asarray(self._model.function(images), np.float32)

    def kind(self, contract: Contract) -> str | None:
        """Return the kind of the outputs (`outputs.KINDS`) by the last activation, None if that doesn't tell."""
        several = contract.outputs == INDEPENDENT
        return outputs.by_activation(self._model.activation, self._model.outputs, several=several)

    def close(self) -> None:
        """Do nothing: Keras frees a model when its last reference is dropped."""
