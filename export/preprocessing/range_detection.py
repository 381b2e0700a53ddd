"""Detection of the range of values that a model expects, with labelled images.

Each candidate scales the same images, and the log loss of the true class is computed for each image. It is much higher
for values other than those of the training. Larger values can lower the loss of an underconfident model. Therefore a
candidate that is correct significantly more often (McNemar's exact test) is preferred to one with a lower loss. The
model's first layers decide only if the losses don't differ significantly (a paired t-test).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing import outputs
from tfship.export.preprocessing.input_contract import INDEPENDENT, Scaling
from tfship.train.common import statistics
from tfship.train.common.errors import UsageError

__all__ = [
    "Detection",
    "Measurement",
    "NamedScaling",
    "RangeCandidate",
    "candidates",
    "detect",
    "normalized",
    "sample",
]

# Enough to distinguish the candidates, and few enough for large models, which run once per candidate.
_IMAGES = 200
_SIGNIFICANT = 0.05
# Number of decimals to which losses are compared.
_DIGITS = 3
# Lower limit of probabilities, so that a single image can't dominate the loss.
_SMALLEST = 1e-7

# ImageNet's mean and deviation per channel for values 0…1 in RGB, as in torchvision, and the mean for values 0…255 in
# BGR, as in Caffe: the modes "torch" and "caffe" of keras.applications.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class RangeCandidate:
    """A scaling of pixels, with its usual `name`."""

    name: str
    scaling: Scaling


@dataclass(frozen=True)
class NamedScaling:
    """The scaling of pixels that the user gives; None for settings that aren't given.

    `value_range` holds the values of pixels 0 and 255. `mean` is subtracted from the values, and the difference divided
    by `std`; both have one number for all channels, or one for each in the model's order. `bgr` is true if that order
    is BGR.
    """

    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None

    def candidate(self, channels: int) -> RangeCandidate | None:
        """Return the given scaling, or None if at most the channel order is given; UsageError if it doesn't fit."""
        if self.bgr is not None and channels != 3:
            raise UsageError(f"--channel-order: the model has {channels} channel; expected 3; omit it")
        if self.value_range is None and self.mean is None and self.std is None:
            return None
        low, high = self.value_range or (0.0, 1.0)
        parts = {"--mean": self.mean or (0.0,), "--std": self.std or (1.0,)}
        for flag, numbers in parts.items():
            if len(numbers) not in (1, channels):
                raise UsageError(
                    f"{flag}: {len(numbers)} numbers; expected one, or one for each of {channels} channels"
                )
        mean, std = (
            numbers if len(numbers) == channels else numbers * channels for numbers in parts.values()
        )
        named = normalized((low, high), mean, std)
        scaling = Scaling(named.scale, named.offset, bool(self.bgr))
        words = [f"{low:g}…{high:g}"]
        words += [
            f"{name} {', '.join(f'{each:g}' for each in numbers)}"
            for name, numbers in (("minus mean", self.mean), ("divided by", self.std))
            if numbers
        ]
        words += ["in BGR"] * scaling.bgr
        return RangeCandidate(" ".join(words), scaling)


@dataclass(frozen=True)
class Measurement:
    """A model's results for images scaled by `candidate`.

    `loss` is the log loss of each image [N] in nats (for independent labels, their mean). `correct` marks the correct
    decisions, one per image, or one per image and label. `chance_p` is the probability that guessing is correct as
    often.
    """

    candidate: RangeCandidate
    scores: NDArray[np.float32]
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]
    chance_p: float

    @property
    def accuracy(self) -> float:
        """The share of correct decisions."""
        return float(self.correct.mean())

    def describe(self) -> dict[str, Any]:
        """Return the figures for cards."""
        return {
            "values": self.candidate.name,
            "log_loss": round(float(self.loss.mean()), 4),
            "accuracy": round(self.accuracy, 4),
            "chance_p": self.chance_p,
        }

    def text(self) -> str:
        """Return the candidate's name and its figures as text."""
        return f"{self.candidate.name}: {self.figures()}"

    def figures(self) -> str:
        """Return the figures as text."""
        return f"log loss {self.loss.mean():.3f}, accuracy {self.accuracy:.3f}"


@dataclass(frozen=True)
class Detection:
    """All measurements, best log loss first, and the `chosen` one.

    `by` is the reason of the choice: "log loss", "accuracy", "layers" or "named". `kind` is that of the raw outputs.
    """

    measurements: Sequence[Measurement]
    chosen: Measurement
    by: str
    kind: str

    @property
    def better(self) -> Measurement | None:
        """The measurement that is significantly better than the chosen one, if any."""
        best = _best(self.measurements)
        return best if best is not self.chosen and _differs(best, self.chosen) else None

    @property
    def guesses(self) -> bool:
        """Whether the chosen one is no better than guessing, with Bonferroni's correction for all candidates."""
        return self.chosen.chance_p > _SIGNIFICANT / len(self.measurements)

    def describe(self) -> dict[str, Any]:
        """Return the description for cards."""
        return {
            "values": self.chosen.candidate.name,
            "by": self.by,
            "images": len(self.chosen.loss),
            "candidates": [each.describe() for each in self.measurements],
        }


def candidates(channels: int, *, integer: bool = False, bgr: bool | None = None) -> list[RangeCandidate]:
    """Return the usual scalings of training images, for images with 1 or 3 `channels`.

    `integer` inputs only get unscaled pixels. `bgr` fixes the order of the channels; None gives each its usual order.
    """
    pixels = RangeCandidate("0…255", Scaling.of_range(0, 255, channels))
    if integer:
        return [pixels]
    found = [RangeCandidate("0…1", Scaling.of_range(0, 1, channels)), pixels]
    found.append(RangeCandidate("-1…1", Scaling.of_range(-1, 1, channels)))
    if channels == 3:
        found.append(RangeCandidate("ImageNet mean and deviation", normalized((0, 1), _MEAN, _DEVIATION)))
        caffe = normalized((0, 255), _CAFFE_MEAN, (1, 1, 1))
        found.append(RangeCandidate("BGR minus ImageNet mean", replace(caffe, bgr=True)))
    if bgr is not None:
        order = "BGR" if bgr else "RGB"
        found = [
            each
            if each.scaling.bgr == bgr
            else RangeCandidate(f"{each.name} in {order}", replace(each.scaling, bgr=bgr))
            for each in found
        ]
    return found


def normalized(
    value_range: tuple[float, float], mean: Sequence[float], deviation: Sequence[float]
) -> Scaling:
    """Return the scaling of pixels to `value_range`, minus `mean` and divided by `deviation` for each channel."""
    low, high = value_range
    return Scaling(
        tuple((high - low) / 255 / each for each in deviation),
        tuple((low - center) / each for center, each in zip(mean, deviation, strict=True)),
    )


def sample(truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sorted indices of the images for the measurements, drawn evenly from all classes in `truth`."""
    if len(truth) <= _IMAGES:
        return np.arange(len(truth))
    order = np.random.default_rng(0).permutation(len(truth))
    if truth.ndim == 1:
        # First one image of each class, then a second one, and so on.
        place = np.zeros(len(truth), np.int64)
        for label in np.unique(truth):
            members = order[truth[order] == label]
            place[members] = np.arange(len(members))
        order = order[np.argsort(place[order], kind="stable")]
    return np.sort(order[:_IMAGES])


def detect(
    predict: Callable[[Scaling], NDArray[np.float32]],
    truth: NDArray[np.int64],
    tried: Sequence[RangeCandidate],
    kind: Callable[[NDArray[np.float32]], str],
    *,
    named: RangeCandidate | None = None,
    suggested: tuple[float, float] | None = None,
) -> Detection:
    """Measure the candidates in `tried` and choose one.

    `predict` returns the model's raw scores [N, outputs] of the images with a scaling. `truth` contains the images'
    class numbers [N] or 0/1 rows [N, labels]. `kind` returns the kind of outputs for the finite scores of all
    candidates (`export.preprocessing.outputs`). `named` is the user's scaling, which is always chosen. `suggested`
    holds the values of pixels 0 and 255 that the model's first layers suggest. Raises ValueError if the model returns
    no finite scores for any candidate, or none for `named`.
    """
    every = list(tried)
    if named is not None and all(each.scaling != named.scaling for each in every):
        every.append(named)
    raw = {each.name: predict(each.scaling) for each in every}
    finite = {name: scores for name, scores in raw.items() if np.isfinite(scores).all()}
    if not finite:
        raise ValueError("returns numbers that aren't finite for every range of values that was tried")
    detected_kind = kind(np.concatenate(list(finite.values())))
    found = [
        _measure(each, outputs.interpret(finite[each.name], detected_kind), truth, detected_kind)
        for each in every
        if each.name in finite
    ]
    # Ties keep the order of the candidates.
    found.sort(key=lambda each: round(float(each.loss.mean()), _DIGITS))
    if named is not None:
        chosen = next((each for each in found if each.candidate.scaling == named.scaling), None)
        if chosen is None:
            raise ValueError(f"returns numbers that aren't finite for values {named.name}")
        return Detection(found, chosen, "named", detected_kind)
    best = _best(found)
    hinted = [each for each in found if suggested is not None and _is_range(each.candidate, suggested)]
    if hinted and hinted[0] is not best and not _differs(best, hinted[0]):
        return Detection(found, hinted[0], "layers", detected_kind)
    return Detection(found, best, "log loss" if best is found[0] else "accuracy", detected_kind)


def _measure(
    candidate: RangeCandidate, scores: NDArray[np.float32], truth: NDArray[np.int64], kind: str
) -> Measurement:
    probabilities = np.clip(scores.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    several = truth.ndim == 2
    if outputs.meaning(kind) == INDEPENDENT:
        rows = truth if several else np.eye(scores.shape[1], dtype=np.int64)[truth]
        loss = -np.where(rows == 1, np.log(probabilities), np.log(1 - probabilities)).mean(1)
    else:
        loss = -np.log(probabilities[np.arange(len(truth)), truth])
    decided = outputs.decisions(scores, several=several)
    return Measurement(
        candidate, scores, loss, (decided == truth).ravel(), statistics.chance_p(decided, truth)
    )


def _best(found: Sequence[Measurement]) -> Measurement:
    """Return the measurement with the lowest loss, or one that is correct significantly more often."""
    best = found[0]
    for each in found[1:]:
        wins, losses = (int(np.sum(one & ~other)) for one, other in
                        ((best.correct, each.correct), (each.correct, best.correct)))  # fmt: skip
        if statistics.lost(wins, losses) < _SIGNIFICANT / len(found):
            best = each
    return best


def _differs(one: Measurement, other: Measurement) -> bool:
    """Return whether the images' losses differ by more than rounding, and significantly."""
    from scipy.stats import ttest_rel

    difference = one.loss - other.loss
    if abs(difference.mean()) < 10**-_DIGITS:
        return False
    return np.ptp(difference) == 0 or bool(ttest_rel(one.loss, other.loss).pvalue < _SIGNIFICANT)


def _is_range(candidate: RangeCandidate, value_range: tuple[float, float]) -> bool:
    return candidate.scaling == Scaling.of_range(*value_range, len(candidate.scaling.scale))
