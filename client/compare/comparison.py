"""The same pictures through every target that can be reached: who answers otherwise, and why.

`compare` asks, `Comparison` is what came of it. What a difference means is looked for by asking again
(`client.compare.divergence_causes`); nothing is said of a cause that no answer has shown.
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
from tfship.client.compare.target_selection import Candidate, coarse, forms, older
from tfship.client.images import batches, preprocessing
from tfship.client.images.sources import PictureSource
from tfship.client.targets.registry import Opened, open_target
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing.input_contract import PROBABILITIES_OF_CLASSES, Contract
from tfship.train.common.errors import DataError, TargetError, TfshipError

__all__ = ["EXACT", "REPEATS", "ComparedRow", "Comparison", "compare"]

# Between runtimes that compute in float32 by other kernels, threads and orders.
EXACT = 1e-3
REPEATS = 5
# Skew shows in a few pictures, or not in many either.
_MOST_EXAMINED = 32
# The format whose tensors are integers from edge to edge.
_INTEGER_FORMAT = next(row.name for row in FORMATS.values() if row.edge != "float32")


@dataclass
class ComparedRow:
    """One target's answers: `scores` [images, classes], interpreted, and what they mean beside the reference's.

    `meaning` is the scores' (`client.targets.interpretation`).
    `milliseconds` are for one image, the median of REPEATS after one to warm up. `difference` is the largest of a
    score to the reference's, `tolerance` what is to be expected. `explanations` are why it is larger, best first;
    `meant` tells that the best of them is no skew, such as a quantized file that is served on purpose.
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
    meant: bool = False
    hint: str = ""
    meaning: str = PROBABILITIES_OF_CLASSES

    @property
    def deviates(self) -> bool:
        """Whether it differs by more than is to be expected."""
        return not self.difference <= self.tolerance

    @property
    def skewed(self) -> bool:
        """Whether it deviates and isn't meant to."""
        return self.deviates and not self.meant


@dataclass
class Comparison:
    """What came of it: `reference` is the name of the row that the others are compared with.

    `missing` are the targets that couldn't be asked, with the reason; `problems` pictures that none was asked about.
    """

    names: Sequence[str]
    rows: Sequence[ComparedRow]
    reference: str
    missing: Sequence[tuple[str, str]] = ()
    problems: Sequence[str] = ()

    @property
    def skewed(self) -> bool:
        """Whether any target differs from the reference and isn't meant to."""
        return any(row.skewed for row in self.rows)


@dataclass
class _Asked:
    candidate: Candidate
    opened: Opened
    answers: dict[int, NDArray[np.float32]]
    milliseconds: float
    problems: dict[int, str] = field(default_factory=dict)


def compare(
    sources: Sequence[PictureSource], candidates: Sequence[Candidate], say: Callable[[str], None]
) -> Comparison:
    """Ask every candidate about every picture, and find out why some answer otherwise.

    `say` is told what takes long. Raises TargetError where fewer than two can be asked, and DataError where no picture
    can be used.
    """
    # Each is read once: standard input can't be read again, and a URL may be another picture by then.
    sources = [replace(each, read=functools.cache(each.read)) for each in sources]
    missing: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        asked = list(_asked(sources, candidates, missing, say, stack))
        if len(asked) < 2:
            why = "; ".join(f"{name}: {reason}" for name, reason in missing)
            raise TargetError(
                f"{len(asked)} of {len(asked) + len(missing)} targets can be asked, expected two or more ({why}); "
                "start a server (`tfship serve`), export the model, or name other targets by --compare="
            )
        usable = [i for i in range(len(sources)) if all(i in each.answers for each in asked)]
        problems = dict.fromkeys(text for each in asked for text in each.problems.values())
        if not usable:
            raise DataError(next(iter(problems), "no picture that all targets answer"))
        reference = min(asked, key=lambda each: (not _takes_values(each.opened), each.candidate.rank))
        rows = [_row(each, usable, reference) for each in asked]
        _explain(rows, asked, reference, [sources[i] for i in usable], say)
    return Comparison(
        [sources[i].name for i in usable], rows, reference.candidate.name, missing, list(problems)
    )


def _asked(
    sources: Sequence[PictureSource],
    candidates: Sequence[Candidate],
    missing: list[tuple[str, str]],
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> Iterator[_Asked]:
    waiting = list(candidates)
    told = False
    while waiting:
        candidate = waiting.pop(0)
        if candidate.slow and not told:
            told = True
            say(
                f"compare: {candidate.name} loads TensorFlow, which takes some seconds; --compare=… leaves it out"
            )
        try:
            opened = open_target(candidate.choice)
            stack.callback(opened.target.close)
            if opened.binding.integers:
                # A quantized file is behind it; those in this process tell it by their names.
                candidate = coarse(candidate, _INTEGER_FORMAT)
            found = _answers(sources, candidate, opened)
            if opened.interpretation.note:
                say(f"compare: {opened.interpretation.note}")
            waiting[:0] = forms(candidate, opened)
            yield found
        except DataError:
            raise
        except TfshipError as error:
            missing.append((candidate.name, " ".join(str(error).split())))


def _answers(sources: Sequence[PictureSource], candidate: Candidate, opened: Opened) -> _Asked:
    found = _Asked(candidate, opened, {}, 0.0)
    place, first = 0, None
    for batch in batches.batches(sources, lambda: opened, decoded=False):
        for each in batches.answered(batch, lambda: opened):
            if each.scores is None:
                found.problems[place] = each.problem
            else:
                found.answers[place] = each.scores
                first = first or each
            place += 1
    found.answers = {
        place: opened.interpretation.scores(scores[np.newaxis])[0] for place, scores in found.answers.items()
    }
    if first is not None:
        found.milliseconds = _milliseconds(opened, first)
    return found


def _milliseconds(opened: Opened, picture: batches.Picture) -> float:
    times = []
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        batches.answered([replace(picture)], lambda: opened)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:]) * 1e3


def _row(asked: _Asked, usable: Sequence[int], reference: _Asked) -> ComparedRow:
    scores = np.stack([asked.answers[i] for i in usable])
    expected = np.stack([reference.answers[i] for i in usable])
    return ComparedRow(
        asked.candidate.name,
        asked.opened.where,
        tuple(asked.opened.contract.labels),
        scores,
        asked.milliseconds,
        divergence_causes.differences(scores, expected),
        # Both may stray, each its own way.
        asked.candidate.tolerance + reference.candidate.tolerance - EXACT,
        asked.candidate.quantized,
        meaning=asked.opened.interpretation.meaning,
    )


def _explain(
    rows: Sequence[ComparedRow],
    asked: Sequence[_Asked],
    reference: _Asked,
    sources: Sequence[PictureSource],
    say: Callable[[str], None],
) -> None:
    """Find out why rows deviate, if any do."""
    if not any(row.deviates for row in rows):
        return
    opened, sources = reference.opened, sources[:_MOST_EXAMINED]
    contract = opened.contract
    values = _values(sources, contract)
    others = dict(_others(reference.candidate, sources, say))
    # A reference that takes pixels can't be asked about other values than theirs.
    tried = divergence_causes.changes(contract.scaling) if _takes_values(opened) else []
    if contract.preparation == "digit" and tried:
        plain = replace(contract, preparation="resize")
        resized = _values(sources, plain)
        say_resized = "gets the picture merely resized, not brought into the form of MNIST's digits"
        others[say_resized] = _ask(opened, resized)
        others[f"{say_resized}, and dark and light swapped"] = _ask(
            opened, divergence_causes.inverted(contract.scaling)(resized)
        )
    for row, each in zip(rows, asked, strict=True):
        if not row.deviates:
            continue
        answer = row.scores[: len(sources)]
        if meant := _other_format(row, rows, len(sources)):
            row.explanations, row.meant = [meant], True
            continue
        row.explanations = divergence_causes.explain(
            answer,
            values,
            functools.partial(_ask, opened),
            tried,
            others,
            max(EXACT, reference.candidate.tolerance, each.candidate.tolerance),
            functools.partial(_ask, each.opened) if _confirms(each) else None,
        )
        row.hint = each.candidate.hint() if each.candidate.hint else ""


def _other_format(row: ComparedRow, rows: Sequence[ComparedRow], count: int) -> Explanation | None:
    """Return which quantized file answers the same, if the row is no file itself and differs by what that one may."""
    for other in rows:
        if other is row or not other.quantized or other.deviates or row.quantized:
            continue
        difference = divergence_causes.differences(row.scores[:count], other.scores[:count])
        if difference <= EXACT:
            return Explanation(f"answers as {other.name} does", "that file is what is served", difference)
    return None


def _others(
    reference: Candidate, sources: Sequence[PictureSource], say: Callable[[str], None]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield what older versions answer to the same pictures."""
    for number, candidate in older(reference.choice):
        try:
            opened = open_target(candidate.choice)
        except TfshipError as error:
            say(f"compare: version {number} can't be asked ({error})")
            continue
        with contextlib.closing(opened.target):
            answers = _answers(sources, candidate, opened).answers
        if len(answers) == len(sources):
            yield f"answers as version {number} does", np.stack([answers[i] for i in range(len(sources))])


def _values(sources: Sequence[PictureSource], contract: Contract) -> NDArray[np.float32]:
    pixels = np.stack([preprocessing.pixels(each.read(), contract, each.name) for each in sources])
    return contract.scale(pixels)


def _ask(opened: Opened, values: NDArray[np.float32]) -> NDArray[np.float32]:
    rows: NDArray[Any] = values.astype(opened.binding.dtype)
    return opened.predict(rows)


def _confirms(asked: _Asked) -> bool:
    """Tell whether a target can be asked about any values: it takes floats, and no integers inside cut them off."""
    return not asked.candidate.quantized and _takes_values(asked.opened)


def _takes_values(opened: Opened) -> bool:
    return opened.binding.dtype.startswith("float")
