"""How figures are written in sentences: with as many digits as they mean something, and what they are."""

from collections.abc import Sequence

__all__ = ["listed", "microseconds", "share", "size", "times"]


def microseconds(value: float) -> str:
    """Return a time in microseconds with three digits, or whole above 100."""
    return f"{value:,.0f} µs" if value >= 100 else f"{value:.3g} µs"


def share(value: float) -> str:
    """Return a share, 0 to 1, in per cent."""
    return f"{value * 100:.0f} %"


def size(bytes_: int) -> str:
    """Return a size in KiB, or in bytes where that says little."""
    return f"{bytes_ / 1024:,.0f} KiB" if bytes_ >= 10 * 1024 else f"{bytes_:,} bytes"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: `a, b and c`. What has a comma itself is parted by semicolons."""
    *most, last = names
    comma = "; " if any("," in name for name in names) else ", "
    return f"{comma.join(most)} and {last}" if most else last


def times(value: float) -> str:
    """Return a ratio with two decimals, or with three digits from 10 on."""
    return f"{value:.2f}" if value < 10 else f"{value:,.3g}"
