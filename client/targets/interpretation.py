"""Interpretation of a model's raw scores, by its contract and by the values of all scores so far.

A number is called a probability only if it is one. Logits get a softmax, or a sigmoid. One number per image becomes
two classes. Integers of a quantized model become real numbers. Numbers within 0…1 that don't sum to 1 are independent
probabilities of labels if the model's contract says so, and otherwise scores of unknown meaning.
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

# The meaning of numbers that are no probabilities. The other meanings are a contract's `outputs`.
SCORES = "scores"

# The kinds that values can show. Further scores move a model to the right in this order, never to the left.
_ORDER = (PROBABILITIES_OF_CLASSES, SIGMOID, INDEPENDENT, LOGITS, LOGIT, INDEPENDENT_LOGITS)
_CERTAIN = (LOGITS, LOGIT, INDEPENDENT_LOGITS)
# Number of images whose scores must sum to 1 before they are taken for probabilities.
_ENOUGH = 64

# TFLite's scale for the outputs of a softmax, and the integer that represents 0.0, by the specification of int8
# quantization (https://ai.google.dev/edge/litert/models/quantization_spec).
_STEP = 1 / 256
_ZEROS = {"uint8": 0, "int8": -128}

_NOTES = {
    LOGITS: "returns logits; printing their softmax",
    LOGIT: "returns one logit per image; printing its sigmoid as two classes",
    SIGMOID: "returns one number per image; printing it as the probability of the second of two classes",
    INDEPENDENT_LOGITS: "returns logits; printing the sigmoid of each",
}
_UNKNOWN = (
    "returns numbers within 0…1 that don't sum to 1; printing them as scores. If each is the probability of one label, "
    'give a contract.json with "outputs": "independent" by --contract'
)


class Interpretation:
    """The meaning of one model's raw scores.

    `contract` is the model's own, None if it is only assumed. `kind` is one of `export.preprocessing.outputs.KINDS`,
    None if the values decide. `where` names the model in messages. May be shared by threads.
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
        """Whether further scores can't change the kind."""
        if self._given is not None or self.kind in _CERTAIN:
            return True
        if self._contract is not None and self.kind == self._contract.outputs:
            return self._count > 0
        return self.kind == PROBABILITIES_OF_CLASSES and self._count >= _ENOUGH

    @property
    def note(self) -> str:
        """A note for users on how the scores are printed, empty if they are what the contract says."""
        if self.meaning == SCORES:
            return f"{self._where}: {_UNKNOWN}"
        expected = self._contract is not None and self.kind == SIGMOID
        note = "" if expected else _NOTES.get(self.kind, "")
        return note and f"{self._where}: {note}"

    def read(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Record raw scores [N, K] and return them as real numbers.

        Raises Refused for integers of unknown scale, and for another number of columns than before.
        """
        if self._columns not in (0, raw.shape[1]):
            raise Refused(
                f"{self._where}: returned {self._columns} numbers per image before, and {raw.shape[1]} now: the model "
                "was replaced; run the command again"
            )
        self._columns = raw.shape[1]
        values = self._real(raw) if self._binding.integers else raw
        several = self._contract is not None and self._contract.outputs == INDEPENDENT
        kind = kind_of(values, several, step=_STEP if self._binding.integers else self._binding.step)
        self._found, self._count = max(self._found, _ORDER.index(kind)), self._count + len(values)
        return values

    def expect(self, kind: str) -> None:
        """Continue from the `kind` that other scores of the same run have shown, such as those in another process."""
        self._found = max(self._found, _ORDER.index(kind))

    def scores(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values [N, K] that `read` returned as scores [N, classes]."""
        return interpret(values, self.kind)

    def _real(self, integers: NDArray[np.float32]) -> NDArray[np.float32]:
        dtype = self._binding.integers
        ways = "or start the server without --prefer_tflite_model, or use the file itself by --target tflite:PATH"
        if self._contract is None:
            raise Refused(
                f"{self._where}: returns {dtype}, whose scale no server reports; give the model's contract.json by "
                f"--contract, {ways}"
            )
        values = (integers - np.float32(_ZEROS[dtype])) * np.float32(_STEP)
        if (
            self._contract.outputs != PROBABILITIES_OF_CLASSES
            or kind_of(values, step=_STEP) != PROBABILITIES_OF_CLASSES
        ):
            raise Refused(
                f"{self._where}: returns {dtype} that aren't a softmax's, so their scale is unknown; export with "
                f"--serve float32, {ways}"
            )
        return values
