"""The curve of a row's latencies."""

from typing import Any

import pytest

from report_fixtures import row
from results_fixtures import results as made_up


@pytest.fixture
def results() -> dict[str, Any]:
    return made_up()


def test_a_tail_is_shown_as_far_as_there_are_samples(results: dict[str, Any]) -> None:
    from tfship.benchmarks.report import plots

    query = row(results, "int8")["query"]
    query.update({"p99_us": None, "p99.9_us": None, "missing": {"p99": "few", "p99.9": "few"}})
    known = plots.distribution(query, results["quantiles"])
    assert max(share for share, _ in known) == 0.9
    full = plots.distribution(row(results, "dynamic")["query"], results["quantiles"])
    assert max(share for share, _ in full) == 0.999
