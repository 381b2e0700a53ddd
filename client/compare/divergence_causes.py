"""Causes of a divergence between a target and the reference, found by further predictions.

A change of the input explains a divergence if the reference returns, for the changed input, what the target returns for
the original input: then the target applies that change to its input. If the target computes exactly, the inverse must
hold, too: for the inversely changed input, the target returns what the reference returns for the original input.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.preprocessing.input_contract import Scaling
from tfship.train.common.errors import TfshipError

__all__ = ["Change", "Explanation", "changes", "differences", "explain", "inverted"]

_WHITE = 255

Values = NDArray[np.float32]
# Returns scores [N, classes] for values [N, height, width, channels].
Predict = Callable[[Values], NDArray[np.float32]]


@dataclass(frozen=True)
class Change:
    """A change that a target may apply to values [N, height, width, channels] before the model.

    `does` describes it, `cause` is its usual cause, `apply` applies it, and `undo` is its inverse.
    """

    does: str
    cause: str
    apply: Callable[[Values], Values]
    undo: Callable[[Values], Values]


@dataclass(frozen=True)
class Explanation:
    """A confirmed explanation: what the target does or is, its usual cause, and the remaining difference of scores."""

    what: str
    cause: str
    difference: float


def changes(scaling: Scaling) -> list[Change]:
    """Return the changes to try on values scaled by `scaling`, without those that have the same effect."""
    # An image with all values different, so that changes with different effects differ on it.
    pixels = np.random.default_rng(0).permutation(6 * 6 * len(scaling.scale)).reshape(1, 6, 6, -1)
    values = scaling.apply(pixels.astype(np.float32))
    found, seen = [], [values]
    for each in _changes(scaling):
        changed = each.apply(values)
        if not any(np.allclose(changed, other, rtol=1e-5, atol=1e-5) for other in seen):
            found.append(each)
            seen.append(changed)
    return found


def inverted(scaling: Scaling) -> Callable[[Values], Values]:
    """Return a function that swaps dark and light in values scaled by `scaling`."""
    sums = np.array(
        [2 * low + _WHITE * scale for low, scale in zip(scaling.offset, scaling.scale, strict=True)]
    )
    return lambda values: (sums - values).astype(np.float32)


def _changes(scaling: Scaling) -> Iterator[Change]:
    # Usual ranges of images: 0 to 255, 0 to 1, -1 to 1.
    scale = "the wrong scale"
    yield Change(
        "divides its input by 255", f"{scale}: it takes values of 0 to 255", _times(1 / 255), _times(255)
    )
    yield Change(
        "multiplies its input by 255", f"{scale}: it lacks the division by 255 that the reference has",
        _times(255), _times(1 / 255),
    )  # fmt: skip
    yield Change(
        "maps 0…1 to -1…1", f"{scale}: it has one more rescaling than the reference", _spread, _narrow
    )
    yield Change("maps -1…1 to 0…1", f"{scale}: it takes values of -1 to 1", _narrow, _spread)
    channels = len(scaling.scale)
    if channels > 1:
        reverse = _flipped(3)
        yield Change("reverses the channels", "BGR instead of RGB", reverse, reverse)
    if all(scaling.scale):
        yield from _other_scalings(scaling)
    invert = inverted(scaling)
    yield Change("inverts its input", "dark and light are swapped", invert, invert)
    yield Change("swaps rows and columns", "another layout", _transposed, _transposed)
    for axis, does in ((2, "swaps left and right"), (1, "swaps top and bottom")):
        flip = _flipped(axis)
        yield Change(does, "another layout", flip, flip)
    if channels > 1:
        yield Change("takes channels for rows", "channels first (NCHW)", _channels_first, _channels_last)


def _other_scalings(scaling: Scaling) -> Iterator[Change]:
    """Yield the changes of a target that scales pixels by another rule, or scales them twice."""
    unmoved = replace(scaling, offset=(0.0,) * len(scaling.offset))
    swap = "puts the channels in BGR order before it scales them"
    lacks_swap = "leaves the channels in RGB order before it scales them"
    mean = "doesn't subtract the mean" if not scaling.uniform else "adds no offset"
    others = [
        (
            lacks_swap if scaling.bgr else swap,
            "the contract has another order of channels",
            _swapped(scaling),
        ),
        (mean, "its scaling lacks the contract's offset", unmoved),
        (
            f"{lacks_swap if scaling.bgr else swap}, and {mean}",
            "it scales pixels by another rule",
            _swapped(unmoved),
        ),
    ]
    for low, high in ((0, 1), (-1, 1), (0, _WHITE)):
        to = Scaling.of_range(low, high, len(scaling.scale))
        others.append((f"scales pixels to {low}…{high}", "it lacks the contract's scaling", to))
    if scaling.bgr:
        swapped = "swaps the channels to BGR and doesn't scale them"
        others.append((swapped, "it lacks the contract's scaling", _swapped(others[-1][2])))
    for does, cause, other in others:
        yield Change(does, cause, _rescaled(scaling, other), _rescaled(other, scaling))
    yield Change(
        "scales its input a second time", "the model contains the scaling, too, so it takes values of 0 to 255",
        lambda values: _scaled(values, scaling), lambda values: _pixels(values, scaling).astype(np.float32),
    )  # fmt: skip


def _swapped(scaling: Scaling) -> Scaling:
    return replace(scaling, bgr=not scaling.bgr)


def _rescaled(was: Scaling, becomes: Scaling) -> Callable[[Values], Values]:
    return lambda values: _scaled(_pixels(values, was), becomes)


def _scaled(pixels: NDArray[Any], scaling: Scaling) -> Values:
    values: Values = scaling.apply(pixels).astype(np.float32)
    return values


def _pixels(values: Values, scaling: Scaling) -> NDArray[np.float64]:
    pixels = (values.astype(np.float64) - scaling.offset) / scaling.scale
    return pixels[..., ::-1] if scaling.bgr else pixels


def _times(factor: float) -> Callable[[Values], Values]:
    return lambda values: (values * np.float32(factor)).astype(np.float32)


def _spread(values: Values) -> Values:
    return (values * 2 - 1).astype(np.float32)


def _narrow(values: Values) -> Values:
    return ((values + 1) / 2).astype(np.float32)


def _transposed(values: Values) -> Values:
    return values.swapaxes(1, 2) if values.shape[1] == values.shape[2] else values


def _flipped(axis: int) -> Callable[[Values], Values]:
    return lambda values: np.flip(values, axis)


def _channels_first(values: Values) -> Values:
    return values.transpose(0, 3, 1, 2).reshape(values.shape)


def _channels_last(values: Values) -> Values:
    count, height, width, channels = values.shape
    return values.reshape(count, channels, height, width).transpose(0, 2, 3, 1)


def differences(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the largest difference of scores [N, classes], infinite if the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))


def explain(
    scores: NDArray[np.float32],
    values: Values,
    reference: Predict,
    tried: Iterable[Change],
    others: Mapping[str, NDArray[np.float32]],
    tolerance: float,
    target: Predict | None = None,
) -> list[Explanation]:
    """Return the explanations of `scores`, the target's for `values`, best first.

    `others` are scores for the same images from other models or other preparations, by description. `target` confirms
    changes; None if it computes too coarsely for that or takes no values. Scores within `tolerance` count as equal.
    """
    found = [
        Explanation(what, "", difference)
        for what, other in others.items()
        if (difference := differences(scores, other)) <= tolerance
    ]
    plain = _predicted(reference, values)
    for change in tried:
        changed = change.apply(values)
        if np.array_equal(changed, values):
            continue
        difference = differences(scores, _predicted(reference, changed))
        if difference > tolerance:
            continue
        if target is not None and differences(_predicted(target, change.undo(values)), plain) > tolerance:
            continue
        found.append(Explanation(change.does, change.cause, difference))
    return sorted(found, key=lambda each: each.difference)


def _predicted(predict: Predict, values: Values) -> NDArray[np.float32]:
    try:
        return predict(np.ascontiguousarray(values, np.float32))
    except TfshipError:
        # Empty scores differ from all others.
        return np.empty((0, 0), np.float32)
