"""Kinds of raw classifier outputs, and their conversion to scores.

Kinds of raw outputs [N, K]:

| kind | raw outputs | scores |
|---|---|---|
| `probabilities` | sum to 1 over K classes | unchanged |
| `logits` | any numbers | softmax over the K classes |
| `sigmoid` | K = 1, the probability p of the second of two classes | [1 - p, p] |
| `logit` | K = 1, the logit of that probability | [1 - p, p] after the sigmoid |
| `independent` | the probability of each label | unchanged |
| `independent-logits` | the logit of each label | sigmoid of each |
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import INDEPENDENT, PROBABILITIES_OF_CLASSES, THRESHOLD

__all__ = [
    "INDEPENDENT_LOGITS",
    "KINDS",
    "LOGIT",
    "LOGITS",
    "SIGMOID",
    "by_activation",
    "decisions",
    "interpret",
    "kind_of",
    "meaning",
    "width",
]

LOGITS, SIGMOID, LOGIT, INDEPENDENT_LOGITS = "logits", "sigmoid", "logit", "independent-logits"
# Descriptions of the kinds.
KINDS = {
    PROBABILITIES_OF_CLASSES: "probabilities",
    LOGITS: "logits, converted by a softmax",
    SIGMOID: "one sigmoid, converted to two classes",
    LOGIT: "one logit, converted to two classes",
    INDEPENDENT: "independent sigmoids, one for each label",
    INDEPENDENT_LOGITS: "independent logits, each converted by a sigmoid",
}

# The largest deviation of a softmax's sum from 1, in float32 or after a half-precision layer.
_SUM = 1e-2
# TFLite's scales of a softmax's outputs, in int8 and in int16.
_STEPS = (1 / 256, 1 / 32768)


def kind_of(scores: NDArray[Any], several: bool = False, *, step: float = 0.0) -> str:
    """Return the kind of the finite raw outputs `scores` [N, K], as far as their values show it.

    Values within 0…1 are never taken for logits. With `several`, an image may have several labels, and sums aren't
    used. `step` is the step between quantized values, whose rounding changes the sums. Without `step`, values that are
    all multiples of a quantized softmax's step count as quantized, as in an int8 file with a float32 interface.
    """
    within = bool(((scores >= -_SUM) & (scores <= 1 + _SUM)).all())
    if several:
        return INDEPENDENT if within else INDEPENDENT_LOGITS
    if scores.shape[1] == 1:
        return SIGMOID if within else LOGIT
    if not within:
        return LOGITS
    half = (step or _step(scores)) / 2
    sums = scores.sum(1, dtype=np.float64)
    # Many small probabilities are rounded to zero: the sum can lose more than rounding up can add.
    lowest, highest = 1 - _SUM - half * scores.shape[1], 1 + _SUM + half * (scores > 0).sum(1)
    return PROBABILITIES_OF_CLASSES if ((lowest <= sums) & (sums <= highest)).all() else INDEPENDENT


def by_activation(activation: str | None, columns: int, *, several: bool = False) -> str | None:
    """Return the kind of raw outputs [N, columns] by the last activation, or None if that doesn't determine it.

    With `several`, an image may have several labels.
    """
    if activation == "softmax" and columns > 1:
        return PROBABILITIES_OF_CLASSES
    if activation in ("sigmoid", "hard_sigmoid"):
        return SIGMOID if columns == 1 else INDEPENDENT
    if activation == "linear":
        return INDEPENDENT_LOGITS if several else LOGIT if columns == 1 else LOGITS
    return None


def interpret(scores: NDArray[Any], kind: str) -> NDArray[np.float32]:
    """Return raw outputs [N, K] of a `kind` as probabilities or independent scores, float32 [N, K], or [N, 2]."""
    values = scores.astype(np.float32)
    if kind == LOGITS:
        powers = np.exp(values - values.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)
    if kind in (LOGIT, INDEPENDENT_LOGITS):
        values = np.exp(-np.logaddexp(np.float32(0), -values))
    if kind in (SIGMOID, LOGIT):
        values = np.concatenate([1 - values, values], axis=1)
    return values


def _step(scores: NDArray[Any]) -> float:
    """Return the quantized softmax's step of which all values are multiples, or 0.0."""
    for step in _STEPS:
        multiples = scores.astype(np.float64) / step
        if np.allclose(multiples, np.rint(multiples), rtol=0, atol=1e-3):
            return step
    return 0.0


def meaning(kind: str) -> str:
    """Return the contract's `outputs` for interpreted raw outputs of a `kind`."""
    return INDEPENDENT if kind in (INDEPENDENT, INDEPENDENT_LOGITS) else PROBABILITIES_OF_CLASSES


def width(kind: str, columns: int) -> int:
    """Return the number of labels for raw outputs of a `kind` with `columns`."""
    return 2 if kind in (SIGMOID, LOGIT) else columns


def decisions(scores: NDArray[np.floating], *, several: bool = False) -> NDArray[np.int64]:
    """Return the decisions of interpreted scores [N, labels]: class numbers [N], or 0/1 rows with `several` labels."""
    return (scores >= THRESHOLD).astype(np.int64) if several else scores.argmax(1)
