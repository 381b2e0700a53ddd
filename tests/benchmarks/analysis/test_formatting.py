"""Figures and lists as they are written in sentences."""

from tfship.benchmarks.analysis import formatting


def test_words() -> None:
    assert formatting.listed(["a"]) == "a"
    assert formatting.listed(["a", "b", "c"]) == "a, b and c"
    assert formatting.listed(["a, b", "c", "d"]) == "a, b; c and d"
    assert (formatting.microseconds(5.236), formatting.microseconds(1234.5)) == ("5.24 µs", "1,234 µs")
    assert (formatting.size(6_420), formatting.size(102_312)) == ("6,420 bytes", "100 KiB")
    assert (formatting.times(1.234), formatting.times(73.26)) == ("1.23", "73.3")
