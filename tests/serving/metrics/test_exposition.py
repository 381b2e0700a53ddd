"""The text of a metrics page: labels, values and buckets as Prometheus reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_fixtures import parsed
from tfship.serving.metrics.exposition import Family, lines
from tfship.serving.metrics.shared_counters import Tally


@given(st.text(), st.floats(-1e300, 1e300))
def test_any_label_and_value_can_be_read_back(label: str, number: float) -> None:
    family = Family("a", "gauge", ("b",), "c")
    page = "\n".join([*lines(family, {(label,): [number]}), ""])
    assert parsed(page) == {("a", frozenset({("b", label)})): pytest.approx(number, rel=1e-14)}


@given(st.lists(st.floats(0, 100)))
def test_buckets_are_what_is_at_most_their_bound(values: list[float]) -> None:
    family = Family("a", "histogram", (), "c", bounds=(1.0, 10.0, 50.0))
    row = Tally(None).row(("a",), family.width)
    for each in values:
        family.observe(row, each)
    samples = parsed("\n".join([*lines(family, {(): row}), ""]))
    for bound in ("1", "10", "50", "+Inf"):
        key = ("a_bucket", frozenset({("le", bound)}))
        assert samples[key] == sum(each <= float(bound) for each in values)
    assert samples["a_sum", frozenset()] == pytest.approx(sum(values))
    assert samples["a_count", frozenset()] == len(values)
