"""Why a target answers otherwise than the reference, found by asking again.

A change explains a difference if the reference, given the changed input, answers what the target answers to the plain
one: then the target does to its input what the change does. Where a target computes exactly, it must hold the other way
round, too: the target, given the input changed back, answers what the reference answers to the plain one.
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

Ask = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """Something that a target may do to values [N, height, width, channels] before the model gets them.

    `does` says what, `cause` what that usually comes from; `apply` does it, and `undo` is its inverse.
    """

    does: str
    cause: str
    apply: Callable[[Values], Values]
    undo: Callable[[Values], Values]


@dataclass(frozen=True)
class Explanation:
    """A finding: what the target does or is, by how much the answers still differ then, and how it was confirmed."""

    what: str
    cause: str
    difference: float


def changes(scaling: Scaling) -> list[Change]:
    """Return the changes that are tried on values that pixels become by `scaling`; each does something else."""
    # Any image in which no two pixels, and no two channels, are alike.
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
    """Return a function that swaps dark and light in values that pixels become by `scaling`."""
    sums = np.array(
        [2 * low + _WHITE * scale for low, scale in zip(scaling.offset, scaling.scale, strict=True)]
    )
    return lambda values: (sums - values).astype(np.float32)


def _changes(scaling: Scaling) -> Iterator[Change]:
    # Scales that images come in: 0 to 255, 0 to 1, -1 to 1.
    scale = "the wrong scale"
    yield Change(
        "divides its input by 255", f"{scale}: it takes values of 0 to 255", _times(1 / 255), _times(255)
    )
    yield Change(
        "multiplies its input by 255", f"{scale}: it lacks the division by 255 that the reference has",
        _times(255), _times(1 / 255),
    )  # fmt: skip
    yield Change("maps 0…1 to -1…1", f"{scale}: it has a rescaling more than the reference", _spread, _narrow)
    yield Change("maps -1…1 to 0…1", f"{scale}: it takes values of -1 to 1", _narrow, _spread)
    channels = len(scaling.scale)
    if channels > 1:
        reverse = _flipped(3)
        yield Change("reverses the channels", "BGR is taken for RGB", reverse, reverse)
    if all(scaling.scale):
        yield from _other_scalings(scaling)
    invert = inverted(scaling)
    yield Change("inverts its input", "dark and light are swapped", invert, invert)
    yield Change("swaps rows and columns", "the layout is another", _transposed, _transposed)
    for axis, does in ((2, "mirrors left and right"), (1, "turns top and bottom")):
        flip = _flipped(axis)
        yield Change(does, "the layout is another", flip, flip)
    if channels > 1:
        yield Change("takes channels for rows", "channels come first (NCHW)", _channels_first, _channels_last)


def _other_scalings(scaling: Scaling) -> Iterator[Change]:
    """Yield what a target does that scales pixels in another way, or scales a second time what is scaled already."""
    unmoved = replace(scaling, offset=(0.0,) * len(scaling.offset))
    swap = "puts the channels in BGR order before it scales them"
    lacks_swap = "leaves the channels in RGB order before it scales them"
    mean = "doesn't subtract the mean" if not scaling.uniform else "adds no offset"
    others = [
        (
            lacks_swap if scaling.bgr else swap,
            "the contract's order of channels is another",
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
        "scales its input a second time", "the model holds the scaling, too, so it takes values of 0 to 255",
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
    """Return the largest difference of two answers [N, classes], infinite where they have other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))


def explain(
    answer: NDArray[np.float32],
    values: Values,
    reference: Ask,
    tried: Iterable[Change],
    others: Mapping[str, NDArray[np.float32]],
    tolerance: float,
    target: Ask | None = None,
) -> list[Explanation]:
    """Return what explains `answer`, the target's to `values`, best first; nothing if nothing does.

    `others` are answers to the same pictures by what the target might be instead, by what that is. `target` is asked
    to confirm changes, unless it computes too coarsely for that or takes no values.
    """
    found = [
        Explanation(what, "", difference)
        for what, other in others.items()
        if (difference := differences(answer, other)) <= tolerance
    ]
    plain = _asked(reference, values)
    for change in tried:
        changed = change.apply(values)
        if np.array_equal(changed, values):
            continue
        difference = differences(answer, _asked(reference, changed))
        if difference > tolerance:
            continue
        if target is not None and differences(_asked(target, change.undo(values)), plain) > tolerance:
            continue
        found.append(Explanation(change.does, change.cause, difference))
    return sorted(found, key=lambda each: each.difference)


def _asked(ask: Ask, values: Values) -> NDArray[np.float32]:
    try:
        return ask(np.ascontiguousarray(values, np.float32))
    except TfshipError:
        # Values that it refuses are none that it agrees about.
        return np.empty((0, 0), np.float32)
