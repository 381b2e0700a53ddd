"""Formatting of figures in sentences, with units and significant digits only."""

from collections.abc import Sequence

__all__ = ["listed", "microseconds", "share", "size", "times"]


def microseconds(value: float) -> str:
    """Return a time in microseconds with three digits, or whole above 100."""
    return f"{value:,.0f} µs" if value >= 100 else f"{value:.3g} µs"


def share(value: float) -> str:
    """Return `value`, a share from 0 to 1, in per cent."""
    return f"{value * 100:.0f} %"


def size(bytes_: int) -> str:
    """Return a size in KiB, below 10 KiB in bytes."""
    return f"{bytes_ / 1024:,.0f} KiB" if bytes_ >= 10 * 1024 else f"{bytes_:,} bytes"


def listed(names: Sequence[str]) -> str:
    """Return names as an enumeration: `a, b and c`. If one contains a comma, semicolons separate them."""
    *most, last = names
    comma = "; " if any("," in name for name in names) else ", "
    return f"{comma.join(most)} and {last}" if most else last


def times(value: float) -> str:
    """Return a ratio with two decimals, from 10 on with three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:,.3g}"
