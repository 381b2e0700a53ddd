"""Comparison of all reachable targets on the same images: which of them diverge, and why.

`compare` returns a `Comparison`. Causes of divergences are found by further predictions
(`client.compare.divergence_causes`), and only reported if predictions confirm them.
"""

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.client.compare import divergence_causes
from tfship.client.compare.divergence_causes import Explanation
from tfship.client.compare.target_selection import Candidate, other_signatures, other_versions, with_tolerance
from tfship.client.images import batches, preprocessing
from tfship.client.images.sources import ImageSource
from tfship.client.targets.registry import Opened, open_target
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES, Contract
from tfship.train.common.errors import DataError, TargetError, TfshipError

__all__ = ["EXACT", "REPEATS", "ComparedRow", "Comparison", "compare"]

# Largest difference between runtimes that compute in float32, with other kernels, threads and orders.
EXACT = 1e-3
REPEATS = 5
# A few images suffice to find the cause of a divergence.
_MOST_EXAMINED = 32
# The format with integer inputs and outputs.
_INTEGER_FORMAT = next(row.name for row in FORMATS.values() if row.edge != "float32")


@dataclass
class ComparedRow:
    """One target's scores [images, classes], interpreted, and their comparison with the reference's.

    `meaning` is the scores' (`client.targets.interpretation`). `milliseconds` is the time for one image, the median of
    REPEATS after one warmup. `difference` is the largest difference of a score from the reference's, `tolerance` the
    largest expected one. `explanations` are causes of a larger difference, best first. `intended`: the best of them is
    no skew, such as a quantized file that is served on purpose.
    """

    name: str
    where: str
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    milliseconds: float
    difference: float = 0.0
    tolerance: float = EXACT
    quantized: bool = False
    explanations: Sequence[Explanation] = ()
    intended: bool = False
    hint: str = ""
    meaning: str = PROBABILITIES_OF_CLASSES

    @property
    def diverges(self) -> bool:
        """Whether the difference exceeds the tolerance."""
        return not self.difference <= self.tolerance

    @property
    def skewed(self) -> bool:
        """Whether the target diverges unintentionally."""
        return self.diverges and not self.intended


@dataclass
class Comparison:
    """The result for images `names`; `reference` is the name of the row with which the others are compared.

    `missing` are the targets that aren't available, with the reason, and `problems` the errors of invalid images.
    """

    names: Sequence[str]
    rows: Sequence[ComparedRow]
    reference: str
    missing: Sequence[tuple[str, str]] = ()
    problems: Sequence[str] = ()

    @property
    def skewed(self) -> bool:
        """Whether any target diverges from the reference unintentionally."""
        return any(row.skewed for row in self.rows)


@dataclass
class _TargetResult:
    """A target's `scores` and `problems`, by the number of the image."""

    candidate: Candidate
    opened: Opened
    scores: dict[int, NDArray[np.float32]]
    milliseconds: float
    problems: dict[int, str] = field(default_factory=dict)


def compare(
    sources: Sequence[ImageSource], candidates: Sequence[Candidate], say: Callable[[str], None]
) -> Comparison:
    """Predict all images with all candidates, and find the causes of divergences.

    `say` gets messages about slow steps. Raises TargetError if fewer than two targets are available, and DataError if
    no image is valid.
    """
    # Each source is read once: standard input can't be read again, and a URL may return another image.
    sources = [replace(each, read=functools.cache(each.read)) for each in sources]
    missing: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        results = list(_results(sources, candidates, missing, say, stack))
        if len(results) < 2:
            why = "; ".join(f"{name}: {reason}" for name, reason in missing)
            raise TargetError(
                f"{len(results)} of {len(results) + len(missing)} targets are available, expected two or more ({why}); "
                "start a server (`tfship serve`), export the model, or give other targets by --compare="
            )
        usable = [i for i in range(len(sources)) if all(i in each.scores for each in results)]
        problems = dict.fromkeys(text for each in results for text in each.problems.values())
        if not usable:
            raise DataError(next(iter(problems), "no image that all targets accept"))
        reference = min(results, key=lambda each: (not _takes_values(each.opened), each.candidate.rank))
        rows = [_row(each, usable, reference) for each in results]
        _explain(rows, results, reference, [sources[i] for i in usable], say)
    return Comparison(
        [sources[i].name for i in usable], rows, reference.candidate.name, missing, list(problems)
    )


def _results(
    sources: Sequence[ImageSource],
    candidates: Sequence[Candidate],
    missing: list[tuple[str, str]],
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Iterator[_TargetResult]:
    waiting = list(candidates)
    noted: set[str] = set()
    while waiting:
        candidate = waiting.pop(0)
        if (slow := candidate.choice.kind.slow) and slow not in noted:
            noted.add(slow)
            say(f"compare: {candidate.name} {slow}, which takes seconds; --compare=… can omit it")
        try:
            opened = open_target(candidate.choice)
            stack.callback(opened.target.close)
            if opened.binding.integers:
                # The server has a quantized file. For files in this process, the name says so.
                candidate = with_tolerance(candidate, _INTEGER_FORMAT)
            found = _predicted(sources, candidate, opened)
            if opened.interpretation.note:
                say(f"compare: {opened.interpretation.note}")
            waiting[:0] = other_signatures(candidate, opened)
            yield found
        except DataError:
            raise
        except TfshipError as error:
            missing.append((candidate.name, " ".join(str(error).split())))


def _predicted(sources: Sequence[ImageSource], candidate: Candidate, opened: Opened) -> _TargetResult:
    found = _TargetResult(candidate, opened, {}, 0.0)
    place, first = 0, None
    for batch in batches.batches(sources, lambda: opened, pixels=False):
        rows = [each.row for each in batch]
        batches.predict(batch, lambda: opened)
        for each, row in zip(batch, rows, strict=True):
            if each.scores is None:
                found.problems[place] = str(each.error)
            else:
                found.scores[place] = each.scores
                first = row if first is None else first
            place += 1
    found.scores = {
        place: opened.interpretation.scores(scores[np.newaxis])[0] for place, scores in found.scores.items()
    }
    if first is not None:
        found.milliseconds = _milliseconds(opened, first)
    return found


def _milliseconds(opened: Opened, row: Any) -> float:
    times = []
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        opened.target.send(batches.stacked([row], opened.binding))
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) * 1e3


def _row(result: _TargetResult, usable: Sequence[int], reference: _TargetResult) -> ComparedRow:
    scores = np.stack([result.scores[i] for i in usable])
    expected = np.stack([reference.scores[i] for i in usable])
    return ComparedRow(
        result.candidate.name,
        result.opened.where,
        tuple(result.opened.contract.labels),
        scores,
        result.milliseconds,
        divergence_causes.differences(scores, expected),
        # Both may deviate from the exact scores, in opposite directions.
        result.candidate.tolerance + reference.candidate.tolerance - EXACT,
        result.candidate.quantized,
        meaning=result.opened.interpretation.meaning,
    )


def _explain(
    rows: Sequence[ComparedRow],
    results: Sequence[_TargetResult],
    reference: _TargetResult,
    sources: Sequence[ImageSource],
    say: Callable[[str], None],
) -> None:
    """Set the explanations of diverging rows."""
    if not any(row.diverges for row in rows):
        return
    opened, sources = reference.opened, sources[:_MOST_EXAMINED]
    contract = opened.contract
    values = _values(sources, contract)
    others = dict(_others(reference.candidate, sources, say))
    # A reference that takes pixels accepts no changed values.
    tried = divergence_causes.changes(contract.scaling) if _takes_values(opened) else []
    if contract.preparation == "digit" and tried:
        plain = replace(contract, preparation="resize")
        resized = _values(sources, plain)
        only_resized = "gets the image resized, but not converted to the form of MNIST's digits"
        others[only_resized] = _predict(opened, resized)
        others[f"{only_resized}, and dark and light swapped"] = _predict(
            opened, divergence_causes.inverted(contract.scaling)(resized)
        )
    for row, each in zip(rows, results, strict=True):
        if not row.diverges:
            continue
        if intended := _other_format(row, rows, len(sources)):
            row.explanations, row.intended = [intended], True
            continue
        row.explanations = divergence_causes.explain(
            row.scores[: len(sources)],
            values,
            functools.partial(_predict, opened),
            tried,
            others,
            max(EXACT, reference.candidate.tolerance, each.candidate.tolerance),
            functools.partial(_predict, each.opened) if _can_confirm(each) else None,
        )
        row.hint = each.candidate.hint() if each.candidate.hint else ""


def _other_format(row: ComparedRow, rows: Sequence[ComparedRow], count: int) -> Explanation | None:
    """Return the quantized file that a row without a file serves, by equal scores; None if there is none."""
    for other in rows:
        if other is row or not other.quantized or other.diverges or row.quantized:
            continue
        difference = divergence_causes.differences(row.scores[:count], other.scores[:count])
        if difference <= EXACT:
            return Explanation(f"returns the scores of {other.name}", "it serves that file", difference)
    return None


def _others(
    reference: Candidate, sources: Sequence[ImageSource], say: Callable[[str], None]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the scores of other versions for the same images, by a description."""
    for number, candidate in other_versions(reference.choice):
        try:
            opened = open_target(candidate.choice)
        except TfshipError as error:
            say(f"compare: version {number} isn't available ({error})")
            continue
        with contextlib.closing(opened.target):
            scores = _predicted(sources, candidate, opened).scores
        if len(scores) == len(sources):
            yield (
                f"returns the scores of version {number}",
                np.stack([scores[i] for i in range(len(sources))]),
            )


def _values(sources: Sequence[ImageSource], contract: Contract) -> NDArray[np.float32]:
    pixels = np.stack([preprocessing.pixels(each.read(), contract, each.name) for each in sources])
    return contract.scale(pixels)


def _predict(opened: Opened, values: NDArray[np.float32]) -> NDArray[np.float32]:
    rows: NDArray[Any] = values.astype(opened.binding.dtype)
    return opened.predict(rows)


def _can_confirm(result: _TargetResult) -> bool:
    """Tell whether a target can confirm explanations: it takes any values, and no integers in it clip them."""
    return not result.candidate.quantized and _takes_values(result.opened)


def _takes_values(opened: Opened) -> bool:
    return opened.binding.dtype.startswith("float")
