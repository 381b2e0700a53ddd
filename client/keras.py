"""A Keras file in this process, as a `Target`: the model as it was trained. Loads TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.binding import DTYPES, by_signature
from client.interpretation import Interpretation
from client.targets import Choice, Opened
from export import contract as contracts
from export import loading
from export.contract import INDEPENDENT, PROBABILITIES_OF_CLASSES, Contract
from export.outputs import INDEPENDENT_LOGITS, LOGIT, LOGITS, SIGMOID
from export.runtime import DEFAULT_SIGNATURE, IMAGE, PROBABILITIES, Signature, TensorSpec
from train import cards, cli
from train.errors import ArtifactError, UsageError

__all__ = ["Keras", "open_target"]

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
# A type that no picture can be, and no type at all.
_NO_PICTURE = 0


def open_target(choice: Choice) -> Opened:
    """Open the `.keras` file that was chosen: a path to it or to its folder, or the trained one, or the released."""
    if choice.servable.signature != DEFAULT_SIGNATURE:
        raise UsageError("--signature with --target keras: a .keras file has none; leave it out")
    path = _file(choice)
    beside = choice.contract_beside(path) if choice.path else None
    own = beside or choice.contract_of_servable()
    contract = own or contracts.digits(choice.servable.name)
    target = Keras(path)
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
    """A Keras 3 classifier with one image input and one output. Raises ArtifactError if it can't be loaded."""

    def __init__(self, path: Path) -> None:
        self._model = loading.keras_model(path)
        if len(self._model.inputs) != 1 or len(self._model.outputs) != 1:
            raise ArtifactError(
                f"{path}: has {len(self._model.inputs)} inputs and {len(self._model.outputs)} outputs; expected one "
                "image and one score for each class"
            )

    @property
    def signature(self) -> Signature:
        """What it takes and answers, as a signature with the export's names."""
        return Signature(
            {IMAGE: _spec(self._model.inputs[0])}, {PROBABILITIES: _spec(self._model.outputs[0])}, ""
        )

    def predict(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the model's own outputs float32 [N, K]; see `kind`."""
        return np.asarray(self._model(images, training=False), np.float32)

    def kind(self, contract: Contract) -> str | None:
        """Return the kind of the outputs (`export.outputs.KINDS`) by the last activation, None where it isn't known."""
        activation = _activation(self._model.outputs[0])
        if contract.outputs == INDEPENDENT:
            return {"sigmoid": INDEPENDENT, "linear": INDEPENDENT_LOGITS}.get(activation)
        if self._model.outputs[0].shape[-1] == 1:
            return {"sigmoid": SIGMOID, "linear": LOGIT}.get(activation)
        return {"softmax": PROBABILITIES_OF_CLASSES, "sigmoid": INDEPENDENT, "linear": LOGITS}.get(activation)

    def close(self) -> None:
        """Do nothing: Keras frees a model with its last reference."""


def _activation(output: Any) -> str:
    """Return the name of the activation that a model's output comes from, empty where it isn't known."""
    layer = getattr(getattr(output, "_keras_history", None), "operation", None)
    inner = getattr(layer, "outputs", None)
    if getattr(layer, "layers", None) and inner:  # a model within the model
        return _activation(inner[0]) if len(inner) == 1 else ""
    if type(layer).__name__ in ("Softmax", "Sigmoid"):
        return type(layer).__name__.lower()
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(-1 if size is None else size for size in tensor.shape)
    return TensorSpec(tensor.name, _NUMBERS.get(tensor.dtype, _NO_PICTURE), shape)
