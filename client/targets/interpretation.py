"""What a model's answers mean, decided from its contract and from the values of all answers so far.

A number is called a probability only if it is one. Logits get the softmax, or the sigmoid; one number for each image
becomes two classes; integers of a quantized model become real numbers again. Numbers within 0…1 that don't sum to 1
are the probabilities of independent labels if the model's contract says so, and else scores whose meaning is unknown.
"""

import numpy as np
from numpy.typing import NDArray

from tfship.client.targets.binding import Binding
from tfship.export.preprocessing.input_contract import INDEPENDENT, PROBABILITIES_OF_CLASSES, Contract
from tfship.export.preprocessing.outputs import (
    INDEPENDENT_LOGITS,
    LOGIT,
    LOGITS,
    SIGMOID,
    interpret,
    kind_of,
    meaning,
)
from tfship.train.common.errors import Refused

__all__ = ["SCORES", "Interpretation"]

# Of numbers whose meaning is unknown; the other meanings are a contract's `outputs`.
SCORES = "scores"

# The kinds that values tell, by what shows later: each answer moves a model to the right, none to the left.
_ORDER = (PROBABILITIES_OF_CLASSES, SIGMOID, INDEPENDENT, LOGITS, LOGIT, INDEPENDENT_LOGITS)
_CERTAIN = (LOGITS, LOGIT, INDEPENDENT_LOGITS)
# Numbers that sum to 1 for so many images do so for all.
_ENOUGH = 64

# The scale that TFLite gives the outputs of softmax, and the integer that stands for 0.0 (the specification of int8
# quantization, https://ai.google.dev/edge/litert/models/quantization_spec).
_STEP = 1 / 256
_ZEROS = {"uint8": 0, "int8": -128}

_NOTES = {
    LOGITS: "answers logits; their softmax is printed",
    LOGIT: "answers one logit for each image; the sigmoid makes it two classes",
    SIGMOID: "answers one number for each image; it is taken for the probability of the second of two classes",
    INDEPENDENT_LOGITS: "answers logits; the sigmoid of each is printed",
}
_UNKNOWN = (
    "answers numbers within 0…1 that don't sum to 1, so they are printed as scores; if each is the probability of its "
    'own label, give a contract.json with "outputs": "independent" by --contract'
)


class Interpretation:
    """The meaning of what one model answers.

    `contract` is the model's own, None where it is only assumed; `kind` one of `export.preprocessing.outputs.KINDS`
    where the model itself tells. `where` names the model in messages. May be shared by threads.
    """

    def __init__(
        self, where: str, binding: Binding, contract: Contract | None = None, kind: str | None = None
    ) -> None:
        self._where, self._binding, self._contract, self._given = where, binding, contract, kind
        self._found, self._count, self._columns = 0, 0, 0

    @property
    def kind(self) -> str:
        """The kind of the raw outputs, one of `export.preprocessing.outputs.KINDS`."""
        return self._given or _ORDER[self._found]

    @property
    def meaning(self) -> str:
        """What the scores are: "probabilities" that sum to 1, "independent" probabilities of labels, or "scores"."""
        known = self._given is not None or (
            self._contract is not None and self._contract.outputs == INDEPENDENT
        )
        return SCORES if self.kind == INDEPENDENT and not known else meaning(self.kind)

    @property
    def settled(self) -> bool:
        """Whether further answers won't change the kind."""
        if self._given is not None or self.kind in _CERTAIN:
            return True
        if self._contract is not None and self.kind == self._contract.outputs:
            return self._count > 0
        return self.kind == PROBABILITIES_OF_CLASSES and self._count >= _ENOUGH

    @property
    def note(self) -> str:
        """What a person should know about the scores, empty if they are what the contract says."""
        if self.meaning == SCORES:
            return f"{self._where}: {_UNKNOWN}"
        as_told = self._contract is not None and self.kind == SIGMOID
        told = "" if as_told else _NOTES.get(self.kind, "")
        return told and f"{self._where}: {told}"

    def read(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return raw answers [N, K] as real numbers, and take them into account.

        Raises Refused for integers whose scale isn't certain, and for another number of columns than before.
        """
        if self._columns not in (0, raw.shape[1]):
            raise Refused(
                f"{self._where}: answered {self._columns} numbers for each image, now {raw.shape[1]}: the model was "
                "replaced; ask again"
            )
        self._columns = raw.shape[1]
        values = self._real(raw) if self._binding.integers else raw
        several = self._contract is not None and self._contract.outputs == INDEPENDENT
        kind = kind_of(values, several, step=_STEP if self._binding.integers else self._binding.step)
        self._found, self._count = max(self._found, _ORDER.index(kind)), self._count + len(values)
        return values

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what `read` has returned as scores [N, classes]."""
        return interpret(values, self.kind)

    def _real(self, integers: NDArray[np.float32]) -> NDArray[np.float32]:
        dtype = self._binding.integers
        ways = "or start the server without --prefer_tflite_model, or ask the file itself by --target tflite:PATH"
        if self._contract is None:
            raise Refused(
                f"{self._where}: answers {dtype}, whose scale no server tells; give the model's contract.json by "
                f"--contract, {ways}"
            )
        values = (integers - np.float32(_ZEROS[dtype])) * np.float32(_STEP)
        if (
            self._contract.outputs != PROBABILITIES_OF_CLASSES
            or kind_of(values, step=_STEP) != PROBABILITIES_OF_CLASSES
        ):
            raise Refused(
                f"{self._where}: answers {dtype} that aren't a softmax's, so their scale is unknown; export with "
                f"--serve float32, {ways}"
            )
        return values
