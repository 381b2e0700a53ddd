"""The values that a model expects pixels to become, found with labelled images.

Each candidate scales the same images, and the model's answers are scored image by image: by the log loss of the
true class, which a model fed with other values than it was trained on gets wrong by far. Larger values can make a
model that is too unsure of itself look better than it is, so a candidate that is right significantly more often
(McNemar's exact test) goes before one with a smaller loss. What the model's first layers suggest decides only where
the loss can't (a paired t-test).
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

# Enough to tell ranges apart, and few enough for large models: each is evaluated once per candidate.
_IMAGES = 200
_SIGNIFICANT = 0.05
# Losses that are the same to this many digits are equal.
_DIGITS = 3
# Probabilities below this count as this: one hopeless image must not decide.
_SMALLEST = 1e-7

# ImageNet's mean and deviation per channel, as torchvision scales (RGB, of values 0…1), and the mean that Caffe's
# models subtract (BGR, of 0…255); the modes "torch" and "caffe" of keras.applications.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)


@dataclass(frozen=True)
class RangeCandidate:
    """A way to scale pixels, with a `name` that people know it by."""

    name: str
    scaling: Scaling


@dataclass(frozen=True)
class NamedScaling:
    """What the user says of the values that pixels become; None where nothing is said.

    `value_range` are the values of pixels 0 and 255. Of these, `mean` is subtracted, and the difference divided by
    `std`, one number for each channel in the model's order. `bgr` tells whether that is BGR.
    """

    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None

    def candidate(self, channels: int) -> RangeCandidate | None:
        """Return the named scaling, None if at most the order of the channels is named; UsageError if it can't be."""
        if self.bgr is not None and channels != 3:
            raise UsageError(
                f"--channel-order: the model takes {channels} channel, which has no order; leave it out"
            )
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
    """What a model answers for images that were scaled by `candidate`.

    `loss` is the log loss of each image [N] in nats (of labels that are judged one by one, their mean), `correct`
    tells which decisions are right, one per image, or one per image and label, and `chance_p` is the probability
    that guessing is right as often.
    """

    candidate: RangeCandidate
    scores: NDArray[np.float32]
    loss: NDArray[np.float64]
    correct: NDArray[np.bool_]
    chance_p: float

    @property
    def accuracy(self) -> float:
        """The share of right decisions."""
        return float(self.correct.mean())

    def describe(self) -> dict[str, Any]:
        """Return the figures as cards hold them."""
        return {
            "values": self.candidate.name,
            "log_loss": round(float(self.loss.mean()), 4),
            "accuracy": round(self.accuracy, 4),
            "chance_p": self.chance_p,
        }

    def text(self) -> str:
        """Return the figures as a person reads them."""
        return f"{self.candidate.name}: {self.figures()}"

    def figures(self) -> str:
        """Return the figures alone."""
        return f"log loss {self.loss.mean():.3f}, accuracy {self.accuracy:.3f}"


@dataclass(frozen=True)
class Detection:
    """All measurements, best log loss first, and the `chosen` one.

    `by` tells what decided: "log loss", "accuracy", "layers" or "named"; `kind` is that of the raw outputs.
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
        """Whether the chosen one is no better than guessing, at a level that allows for all that were tried."""
        return self.chosen.chance_p > _SIGNIFICANT / len(self.measurements)

    def describe(self) -> dict[str, Any]:
        """Return what cards say of it."""
        return {
            "values": self.chosen.candidate.name,
            "by": self.by,
            "images": len(self.chosen.loss),
            "candidates": [each.describe() for each in self.measurements],
        }


def candidates(channels: int, *, integer: bool = False, bgr: bool | None = None) -> list[RangeCandidate]:
    """Return the scalings that models are trained with, for images of 1 or 3 channels.

    `integer` inputs take pixels as they are. `bgr` keeps to one order of the channels; None tries those in use.
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
    """Return the scaling of pixels to `value_range`, then less the mean and divided by the deviation per channel."""
    low, high = value_range
    return Scaling(
        tuple((high - low) / 255 / each for each in deviation),
        tuple((low - center) / each for center, each in zip(mean, deviation, strict=True)),
    )


def sample(truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sorted indices of the images that candidates are measured on, drawn from all classes alike."""
    if len(truth) <= _IMAGES:
        return np.arange(len(truth))
    order = np.random.default_rng(0).permutation(len(truth))
    if truth.ndim == 1:
        # The first of each class, then the second of each …
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
    """Measure all candidates and choose.

    `predict` returns the model's own scores [N, outputs] of the images, scaled; `truth` their class numbers [N] or
    0/1 rows [N, labels]; `kind` tells from the finite scores of all candidates what they mean
    (`export.preprocessing.outputs`). `named` is what the user said, which is obeyed; `suggested` are the values of
    pixels 0 and 255 that the model's first layers suggest. Raises ValueError if the model answers no finite scores,
    whatever it is given.
    """
    every = list(tried)
    if named is not None and all(each.scaling != named.scaling for each in every):
        every.append(named)
    raw = {each.name: predict(each.scaling) for each in every}
    finite = {name: scores for name, scores in raw.items() if np.isfinite(scores).all()}
    if not finite:
        raise ValueError("answers numbers that aren't finite for all ranges of values that were tried")
    means = kind(np.concatenate(list(finite.values())))
    found = [
        _measure(each, outputs.interpret(finite[each.name], means), truth, means)
        for each in every
        if each.name in finite
    ]
    # Equals stay in the order of the candidates.
    found.sort(key=lambda each: round(float(each.loss.mean()), _DIGITS))
    if named is not None:
        chosen = next((each for each in found if each.candidate.scaling == named.scaling), None)
        if chosen is None:
            raise ValueError(f"answers numbers that aren't finite for values {named.name}")
        return Detection(found, chosen, "named", means)
    best = _best(found)
    hinted = [each for each in found if suggested is not None and _is_range(each.candidate, suggested)]
    if hinted and hinted[0] is not best and not _differs(best, hinted[0]):
        return Detection(found, hinted[0], "layers", means)
    return Detection(found, best, "log loss" if best is found[0] else "accuracy", means)


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
    """Return the measurement with the smallest loss, or one that is right significantly more often."""
    best = found[0]
    for each in found[1:]:
        wins, losses = (int(np.sum(one & ~other)) for one, other in
                        ((best.correct, each.correct), (each.correct, best.correct)))  # fmt: skip
        if statistics.lost(wins, losses) < _SIGNIFICANT / len(found):
            best = each
    return best


def _differs(one: Measurement, other: Measurement) -> bool:
    """Tell whether the images' losses differ by more than rounding, and than the choice of images explains."""
    from scipy.stats import ttest_rel

    difference = one.loss - other.loss
    if abs(difference.mean()) < 10**-_DIGITS:
        return False
    return np.ptp(difference) == 0 or bool(ttest_rel(one.loss, other.loss).pvalue < _SIGNIFICANT)


def _is_range(candidate: RangeCandidate, value_range: tuple[float, float]) -> bool:
    return candidate.scaling == Scaling.of_range(*value_range, len(candidate.scaling.scale))
