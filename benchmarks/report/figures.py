"""Figures as they are written everywhere in a report: with as many digits as they deserve."""

__all__ = ["EMPTY", "duration", "number", "probability"]

# What stands where a figure is missing.
EMPTY = "–"


def number(value: float) -> str:
    """Return three digits, of large numbers all before the point, of small ones no last zeros: 2,024, 5.20, 0.009."""
    # Three digits of 99.96 are 100., and a point that nothing follows is no use.
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if value >= 0.1 else f"{value:.3g}"


def duration(microseconds: float) -> str:
    """Return a time in the unit that it reads best in: 5.24 µs, 1.15 ms, 2.40 s."""
    for unit, size in (("µs", 1.0), ("ms", 1e3)):
        if microseconds < 999.5 * size:
            return f"{number(microseconds / size)} {unit}"
    return f"{number(microseconds / 1e6)} s"


def probability(p: float) -> str:
    """Return a test's p, which is of no interest below a ten-thousandth: 1, 0.38, < 0.0001."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
