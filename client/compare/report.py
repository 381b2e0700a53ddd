"""Reports of a comparison: a table with a verdict, or values for JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tfship.client.cli.output import named, rank, visible
from tfship.client.compare.comparison import EXACT, REPEATS, ComparedRow, Comparison
from tfship.client.targets.interpretation import SCORES
from tfship.export.preprocessing.input_contract import INDEPENDENT

__all__ = ["describe", "lines"]

# Number of images whose labels fit into a line.
_MOST_LABELS = 6


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table, the unavailable targets and the verdict."""
    several = len(comparison.names) > 1
    score = "score" if any(row.meaning == SCORES for row in comparison.rows) else "probability"
    columns = (
        "target",
        "labels" if several else "label",
        f"least {score}" if several else score,
        "ms",
        "difference",
    )
    yield from _aligned([columns, *(_cells(row, comparison) for row in comparison.rows)])
    yield ""
    images = f"{len(comparison.names)} images" if several else visible(comparison.names[0])
    yield (
        f"{images}; ms: for one image, median of {REPEATS} after one warmup; difference: largest difference of a "
        f"{score} from {comparison.reference}'s"
    )
    reasons: dict[str, list[str]] = {}
    for name, reason in comparison.missing:
        reasons.setdefault(reason, []).append(visible(name))
    for reason, names in reasons.items():
        yield f"not available: {', '.join(names)}: {visible(reason)}"
    yield from _verdict(comparison)


def describe(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON values. An infinite difference, to another number of classes, is None."""
    return {
        "pictures": list(comparison.names),
        "reference": comparison.reference,
        "skew": comparison.skewed,
        "targets": [
            {
                "target": row.name,
                "where": row.where,
                "labels": [label for label, _ in _tops(row)],
                **_scores(row),
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


def _scores(row: ComparedRow) -> dict[str, Any]:
    """Return the scores of the labels, named by their meaning, and each image's labels if it may have several."""
    scores = [score for _, score in _tops(row)]
    if row.meaning == SCORES:
        return {"probabilities": None, "scores": scores}
    sets = {"label_sets": _label_sets(row)} if row.meaning == INDEPENDENT else {}
    return {"probabilities": scores, **sets}


def _verdict(comparison: Comparison) -> Iterator[str]:
    # A server's two ports diverge for the same reason.
    alike: dict[tuple[str, str, str], list[ComparedRow]] = {}
    for row in comparison.rows:
        if row.diverges:
            alike.setdefault(_explained(row, comparison), []).append(row)
    for (kind, text, hint), rows in alike.items():
        names = ", ".join(visible(row.name) for row in rows)
        yield f"{kind}: {names}: {text}{_measured(rows, comparison)}{hint}"
    yield from _other_labels(comparison)
    if comparison.skewed:
        return
    others = [row for row in comparison.rows if row.name != comparison.reference and not row.diverges]
    kinds = []
    for quantized, what in ((False, "exact"), (True, "quantized")):
        rows = [row for row in others if row.quantized == quantized]
        if rows:
            worst = max(rows, key=lambda row: row.difference / row.tolerance)
            kinds.append(
                f"{len(rows)} {what} (at most {_number(worst.difference)}, {worst.name}; {_number(worst.tolerance)} is "
                "allowed)"
            )
    if kinds:
        yield f"no skew relative to {comparison.reference}: {', '.join(kinds)}"


def _other_labels(comparison: Comparison) -> Iterator[str]:
    """Yield the targets whose labels differ from the reference's, if an image may have several."""
    (reference,) = (row for row in comparison.rows if row.name == comparison.reference)
    if reference.meaning != INDEPENDENT:
        return
    expected = _label_sets(reference)
    for row in comparison.rows:
        found = _label_sets(row)
        other = [i for i, labels in enumerate(found) if set(labels) != set(expected[i])]
        if other and not math.isinf(row.difference):
            first = other[0]
            yield (
                f"other labels: {visible(row.name)}, for {len(other)} of {len(found)} images, such as "
                f"{visible(comparison.names[first])}: {_joined(found[first])}, not {_joined(expected[first])}"
            )


def _explained(row: ComparedRow, comparison: Comparison) -> tuple[str, str, str]:
    """Return the kind of a divergence, its explanation, and a hint."""
    hint = f"; {visible(row.hint)}" if row.hint else ""
    if math.isinf(row.difference):
        (expected,) = (each for each in comparison.rows if each.name == comparison.reference)
        return (
            "skew",
            f"another model: it returns {row.scores.shape[1]} classes, {expected.name} {expected.scores.shape[1]}",
            hint,
        )
    if not row.explanations:
        return (
            "skew",
            "unexplained: no other scale, layout, preparation or version on this disk gives these scores",
            hint,
        )
    # These images don't distinguish explanations that fit as well as the best one.
    bound = max(EXACT, row.explanations[0].difference)
    text = (
        each.what + (f" ({each.cause})" if each.cause else "")
        for each in row.explanations
        if each.difference <= bound
    )
    return "no skew" if row.intended else "skew", ", or ".join(text), hint


def _measured(rows: Sequence[ComparedRow], comparison: Comparison) -> str:
    difference = max(row.difference for row in rows)
    if math.isinf(difference):
        return ""
    differs = f"differs from {comparison.reference} by {_number(difference)}"
    if rows[0].explanations:
        left = max(row.explanations[0].difference for row in rows)
        return f"; {differs}, and by {_number(left)} after correcting for that"
    return f"; {differs}, expected at most {_number(rows[0].tolerance)}"


def _cells(row: ComparedRow, comparison: Comparison) -> tuple[str, ...]:
    tops = _tops(row)
    names = (
        list(map(_joined, _label_sets(row))) if row.meaning == INDEPENDENT else [label for label, _ in tops]
    )
    labels = [visible(name) for name in names[:_MOST_LABELS]] + ["…"] * (len(names) > _MOST_LABELS)
    least = min(probability for _, probability in tops)
    difference = "reference" if row.name == comparison.reference else _number(row.difference)
    mark = " !" if row.skewed else ""
    return visible(row.name), " ".join(labels), f"{least:.4f}", f"{row.milliseconds:.2f}", difference + mark


def _tops(row: ComparedRow) -> list[tuple[str, float]]:
    return [rank(scores, row.labels)[0] for scores in row.scores]


def _label_sets(row: ComparedRow) -> list[list[str]]:
    return [named(rank(scores, row.labels)) for scores in row.scores]


def _joined(labels: Sequence[str]) -> str:
    return "+".join(labels) or "none"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows in columns: two columns of left-aligned text, and right-aligned numbers."""
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
