"""Formatting of figures in a report, with significant digits only."""

__all__ = ["EMPTY", "duration", "number", "probability"]

# Shown instead of a missing figure.
EMPTY = "–"


def number(value: float) -> str:
    """Return `value` with three digits (5.20), all integer digits (2,024), and no trailing zeros below 0.1 (0.009)."""
    # With three digits, 99.96 would become "100.".
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 0.1 else f"{value:.3g}"


def duration(microseconds: float) -> str:
    """Return a time in µs, ms or s, depending on its size: 5.24 µs, 1.15 ms, 2.40 s."""
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds < 999.5 * size:
            return f"{number(microseconds / size)} {unit}"
    return f"{number(microseconds / 1e6)} s"


def probability(p: float) -> str:
    """Return a test's p with two digits, down to a ten-thousandth: 1, 0.38, < 0.0001."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
