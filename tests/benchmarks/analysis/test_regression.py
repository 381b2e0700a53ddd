"""Two result files compared: noise, rows that are gone, and files that can't be compared."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis_fixtures import CLOCKS, Results, Row, row, slow_down, worse
from results_fixtures import results
from tfship.benchmarks.analysis.differences import NOISE
from tfship.benchmarks.analysis.regression import compare
from tfship.train.common.errors import ArtifactError, DataError


@pytest.fixture
def old() -> Results:
    return results()


@pytest.fixture
def new() -> Results:
    return results()


def timings(row: Row) -> Iterator[dict[str, Any]]:
    yield from (row[clock] for clock in CLOCKS)
    yield from (batch["timing"] for batch in row["batches"].values())


def slow_machine(made: Results, factor: float) -> None:
    """Have the machine take so many times as long for everything."""
    for model in made["models"].values():
        for each in model["rows"]:
            for timing in timings(each):
                slow_down(timing, factor)
            load = [*(each["sweep"] or []), each["scenarios"]["server"]]
            for measured in (one for one in load if one):
                measured["rate"] /= factor
                for trial in measured.get("trials", []):
                    trial["rate"] /= factor


# Noise


def test_a_file_against_itself_has_no_regression(old: Results, new: Results) -> None:
    comparison = compare(old, new)
    assert comparison.regressions == []
    assert comparison.remarks == []
    assert {each.found for each in comparison.checks} == {NOISE}
    assert len(comparison.checks) > 500


MUTATIONS: list[Callable[[Row], None]] = [
    lambda row: row["query"].update(stable=False, windows_p50_us=[9.0, 30.0, 14.0, 55.0]),
    lambda row: row.update(end_to_end=None),
    lambda row: row["query"].update(p50_us=None, p90_us=None, p99_us=None, windows_p50_us=[]),
    lambda row: row["query"].update(windows_p50_us=[]),
    lambda row: row.update(batches={}),
    lambda row: row.update(arena_bytes=None, peak_bytes=None, sweep=[]),
    lambda row: row["scenarios"].update(server=None),
    lambda row: row["scenarios"].update(server={"rate": None, "p99_ms": None, "queries": 0, "trials": []}),
    lambda row: row.update(sweep=[{"connections": 1, "rate": 0.0, "p50_ms": 0.0, "p99_ms": 0.0}]),
]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 34), st.sampled_from(MUTATIONS)), max_size=8))
def test_whatever_a_file_holds_it_passes_against_itself(
    mutations: list[tuple[int, Callable[[Row], None]]],
) -> None:
    made, same = results(), results()
    for which, mutate in mutations:
        for each in (made, same):
            mutate(each["models"]["cnn"]["rows"][which])
    assert compare(made, same).regressions == []


@settings(max_examples=25)
@given(st.floats(0.05, 20))
def test_a_faster_or_slower_machine_is_no_regression_but_of_the_reference_alone(factor: float) -> None:
    before, now = results(), results()
    slow_machine(now, factor)
    regressions = compare(before, now).regressions
    reference = [each for each in regressions if each.row == "float32"]
    assert regressions == reference
    assert bool(reference) == (factor > 1.5)


@pytest.mark.parametrize("seed", range(8))
def test_two_runs_on_a_noisy_machine_pass(old: Results, new: Results, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for made in (old, new):
        for model in made["models"].values():
            for each in model["rows"]:
                for timing in timings(each):
                    slow_down(timing, float(np.exp(0.04 * generator.standard_normal())))
    # Some do differ by more than a tenth: it's the scatter of all that tells them from regressions.
    assert any(each.worse and each.worse > 1.1 for each in compare(old, new).checks)
    assert worse(old, new) == []


def test_a_regression_is_found_in_the_noise_of_all_others(old: Results, new: Results) -> None:
    generator = np.random.default_rng(3)
    for each in new["models"]["cnn"]["rows"][1:]:
        slow_down(each["query"], float(np.exp(0.05 * generator.standard_normal())))
    slow_down(row(new, "int8")["query"], 2.0)
    assert worse(old, new) == ["int8: query p50"]


def test_scatter_hides_no_more_than_half(old: Results, new: Results) -> None:
    for number, each in enumerate(new["models"]["cnn"]["rows"][1:] + new["models"]["nn"]["rows"][1:]):
        slow_down(each["query"], 1.7 if number % 2 else 1.0)
    found = [each for each in compare(old, new).regressions if each.figure == "query p50"]
    assert len(found) == 34
    assert {each.band for each in found} == {1.5}


# Rows, models, weights


def test_a_row_or_model_that_is_gone_is_a_regression_and_a_new_one_is_not(old: Results, new: Results) -> None:
    new["models"]["cnn"]["rows"].remove(row(new, "int8"))
    assert worse(old, new) == ["int8: row"]
    comparison = compare(new, old)
    assert comparison.regressions == []
    assert comparison.remarks == ["cnn: new: int8"]
    del new["models"]["cnn"]
    assert worse(old, new) == ["all rows: row"]
    assert compare(new, old).remarks == ["cnn: new, with 35 rows"]


def test_other_weights_are_told(old: Results, new: Results) -> None:
    new["models"]["nn"]["keras_sha256"] = "0" * 64
    assert compare(old, new).remarks == ["nn: the weights differ from the baseline's"]


# What can't be compared


def test_other_data_is_refused(old: Results, new: Results) -> None:
    new["data"].update(sha256="0" * 64, label="Fashion-MNIST")
    with pytest.raises(DataError, match="on MNIST .* on Fashion-MNIST .*; measure both on the same data"):
        compare(old, new)


def test_another_mode_is_refused(old: Results, new: Results) -> None:
    new["mode"] = "quick"
    with pytest.raises(ArtifactError, match="in mode default, the new results in mode quick"):
        compare(old, new)


def test_another_reference_is_refused(old: Results, new: Results) -> None:
    new["models"]["nn"]["reference"] = "int8"
    with pytest.raises(ArtifactError, match="nn: the baseline's times are relative to float32"):
        compare(old, new)
