"""A Keras file in this process, as a `Target`: the model as it was trained. Loads TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import by_signature
from tfship.client.targets.interpretation import Interpretation
from tfship.client.targets.registry import Choice, Opened
from tfship.export.preprocessing import input_contract as contracts
from tfship.export.preprocessing import outputs
from tfship.export.preprocessing.input_contract import INDEPENDENT, Contract
from tfship.export.runtimes.protocol import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES, Signature, TensorSpec
from tfship.export.sources import model_loading
from tfship.train import cards
from tfship.train.common import cli
from tfship.train.common.errors import UsageError

__all__ = ["Keras", "open_target"]

# TensorFlow's number of float32.
_FLOAT = 1


def open_target(choice: Choice) -> Opened:
    """Open the `.keras` file that was chosen: a path to it or to its folder, or the trained one, or the released."""
    if choice.servable.signature != DEFAULT_SIGNATURE:
        raise UsageError("--signature with --target keras: a .keras file has none; leave it out")
    path = _file(choice)
    beside = choice.contract_beside(path) if choice.path else None
    own = beside or choice.contract_of_servable()
    contract = own or contracts.digits(choice.servable.name)
    target = Keras(path, (contract.height, contract.width))
    where = str(path)
    binding = by_signature({DEFAULT_SIGNATURE: target.signature}, DEFAULT_SIGNATURE, contract, where)
    interpretation = Interpretation(where, binding, own, target.kind(contract))
    return Opened(target, contract, binding, where, interpretation)


def _file(choice: Choice) -> Path:
    name = f"{choice.servable.name}.keras"
    if choice.path:
        path = Path(choice.path)
        return path / name if path.is_dir() else path
    if choice.servable.version is not None:
        raise UsageError("--version with --target keras: a .keras file has none; leave it out")
    folder = cards.locate(choice.models, choice.servable.name)
    if folder != choice.models:
        cli.say(f"{choice.models / name} isn't there, so the released model answers: {folder / name}")
    return folder / name


class Keras:
    """A Keras classifier with one image input and one output.

    `size` is height and width of an image, for a model that takes flat rows or images of any size. Raises what
    `export.sources.model_loading.load` does.
    """

    def __init__(self, path: Path, size: tuple[int, int] | None = None) -> None:
        self._model = model_loading.load(path, size)

    @property
    def signature(self) -> Signature:
        """What it takes and answers, as a signature with the export's names."""
        return Signature(
            {IMAGE: TensorSpec(IMAGE, _FLOAT, (self._model.batch or -1, *self._model.shape))},
            {PROBABILITIES: TensorSpec(PROBABILITIES, _FLOAT, (-1, self._model.outputs))},
            "",
        )

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the model's own outputs float32 [N, K]; see `kind`."""
        return np.asarray(self._model.function(images), np.float32)

    def kind(self, contract: Contract) -> str | None:
        """Return the kind of the outputs (`outputs.KINDS`) by the last activation, None where it isn't known."""
        several = contract.outputs == INDEPENDENT
        return outputs.by_activation(self._model.activation, self._model.outputs, several=several)

    def close(self) -> None:
        """Do nothing: Keras frees a model with its last reference."""
