"""A comparison as a table and a verdict for a person, or as values for JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from client.compare import EXACT, REPEATS, Comparison, Row
from client.output import visible

__all__ = ["describe", "lines"]

_COLUMNS = ("target", "label", "probability", "ms", "difference")
# So many pictures' labels fit a line.
_MOST_LABELS = 6


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table, of what couldn't be asked, and of the verdict."""
    several = len(comparison.names) > 1
    columns = ("target", "labels", "least probability", "ms", "difference") if several else _COLUMNS
    yield from _aligned([columns, *(_cells(row, comparison) for row in comparison.rows)])
    yield ""
    what = f"{len(comparison.names)} pictures" if several else visible(comparison.names[0])
    yield (
        f"{what}; ms: a picture at a time, median of {REPEATS} after one to warm up; difference: the largest of a "
        f"probability to {comparison.reference}'s"
    )
    for name, reason in comparison.missing:
        yield f"not asked: {visible(name)}: {visible(reason)}"
    yield from _verdict(comparison)


def describe(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as values that JSON can hold; an infinite difference, of other classes, is None."""
    return {
        "pictures": list(comparison.names),
        "reference": comparison.reference,
        "skew": comparison.skewed,
        "targets": [
            {
                "target": row.name,
                "where": row.where,
                "labels": [label for label, _ in _tops(row)],
                "probabilities": [probability for _, probability in _tops(row)],
                "milliseconds": row.milliseconds,
                "difference": _finite(row.difference),
                "tolerance": row.tolerance,
                "skew": row.skewed,
                "explanations": [
                    {"what": each.what, "cause": each.cause, "difference": each.difference}
                    for each in row.explanations
                ],
                "hint": row.hint,
            }
            for row in comparison.rows
        ],
        "not_asked": dict(comparison.missing),
        "verdict": list(_verdict(comparison)),
    }


def _verdict(comparison: Comparison) -> Iterator[str]:
    for row in comparison.rows:
        if row.deviates:
            yield _judged(row, comparison)
    if comparison.skewed:
        return
    exact = [row for row in comparison.rows if row.tolerance <= EXACT and not row.deviates]
    coarse = [row for row in comparison.rows if row.tolerance > EXACT]
    most = max(row.difference for row in exact)
    quantized = ""
    if coarse:
        worst = max(coarse, key=lambda row: row.difference / row.tolerance)
        quantized = (
            f"; {len(coarse)} that are quantized, within what that explains "
            f"({worst.name} {_number(worst.difference)}, {_number(worst.tolerance)} is allowed)"
        )
    yield f"no skew: {len(exact)} targets answer alike, within {_number(most)} ({EXACT:g} is allowed){quantized}"


def _judged(row: Row, comparison: Comparison) -> str:
    name, reference = visible(row.name), comparison.reference
    if math.isinf(row.difference):
        expected = next(each for each in comparison.rows if each.name == reference)
        return (
            f"skew: {name} answers {row.scores.shape[1]} classes, {reference} {expected.scores.shape[1]}: "
            "they are different models"
        )
    hint = f"; {visible(row.hint)}" if row.hint else ""
    if not row.explanations:
        return (
            f"skew: {name} differs from {reference} by {_number(row.difference)}, and {_number(row.tolerance)} is to "
            "be expected: unexplained, no other scale, layout, preparation or version on this "
            f"disk gives that answer{hint}"
        )
    best = row.explanations[0]
    # What fits as well as the best can't be told from it by these pictures.
    as_good = [each for each in row.explanations if each.difference <= max(EXACT, best.difference)]
    told = ", or ".join(each.what + (f" ({each.cause})" if each.cause else "") for each in as_good)
    agree = (
        f"so they agree within {_number(best.difference)}, and differ by {_number(row.difference)} without"
    )
    return f"{'no skew' if row.meant else 'skew'}: {name} {told}: {agree}{hint}"


def _cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    tops = _tops(row)
    labels = [visible(label) for label, _ in tops[:_MOST_LABELS]] + ["…"] * (len(tops) > _MOST_LABELS)
    least = min(probability for _, probability in tops)
    beside = "reference" if row.name == comparison.reference else _number(row.difference)
    mark = " !" if row.skewed else ""
    return visible(row.name), " ".join(labels), f"{least:.4f}", f"{row.milliseconds:.2f}", beside + mark


def _tops(row: Row) -> list[tuple[str, float]]:
    classes = row.scores.shape[1]
    names = row.labels if len(row.labels) == classes else tuple(map(str, range(classes)))
    return [(names[int(scores.argmax())], float(scores.max())) for scores in row.scores]


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows in columns, texts to the left and, from the third column on, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if value < 0.01 else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
