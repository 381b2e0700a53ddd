"""A `.keras` file in this process, as a `Target`: the model as it was trained. Loads TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.binding import DTYPES, by_signature
from client.targets import Choice, Opened
from export import contract as contracts
from export import loading, outputs, store
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
    path, version = _file(choice)
    contract = choice.contract_beside(version) or contracts.digits(choice.servable.name)
    target = Keras(path)
    binding = by_signature({DEFAULT_SIGNATURE: target.signature}, DEFAULT_SIGNATURE, contract, str(path))
    return Opened(target, contract, binding, str(path))


def _file(choice: Choice) -> tuple[Path, Path | None]:
    """Return the file, and where its contract may lie."""
    name = f"{choice.servable.name}.keras"
    if choice.path:
        path = Path(choice.path)
        if path.is_dir():
            path /= name
        return path, path
    if choice.servable.version is not None:
        raise UsageError("--version with --target keras: a .keras file has none; leave it out")
    folder = cards.locate(choice.models, choice.servable.name)
    if folder != choice.models:
        cli.say(f"{choice.models / name} isn't there, so the released model answers: {folder / name}")
    found = store.versions(choice.base)
    return folder / name, found.get(max(found, default=0))


class Keras:
    """A Keras 3 classifier with one image input and one output. Raises ArtifactError if it can't be loaded.

    Logits get a softmax, as in the export.
    """

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
        """See `export.runtime.Target.predict`."""
        answers = np.asarray(self._model(images, training=False), np.float32)
        if answers.ndim == 2 and answers.size and outputs.kind_of(answers) == outputs.LOGITS:
            powers = np.exp(answers - answers.max(1, keepdims=True))
            answers = powers / powers.sum(1, keepdims=True)
        return answers

    def close(self) -> None:
        """Do nothing: Keras frees a model with its last reference."""


def _spec(tensor: Any) -> TensorSpec:
    shape = tuple(-1 if size is None else size for size in tensor.shape)
    return TensorSpec(tensor.name, _NUMBERS.get(tensor.dtype, _NO_PICTURE), shape)
