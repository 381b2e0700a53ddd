"""A row's figures in two result files: times, throughput, sizes and accuracy."""

import base64
import zlib
from typing import Any

import numpy as np
import pytest

from analysis_fixtures import CLOCKS, Results, Row, row, slow_down, worse
from results_fixtures import packed, results
from tfship.benchmarks.analysis.differences import BETTER, NOISE, UNJUDGED, WORSE, Check
from tfship.benchmarks.analysis.regression import compare
from tfship.train.common.errors import ArtifactError


@pytest.fixture
def old() -> Results:
    return results()


@pytest.fixture
def new() -> Results:
    return results()


def check(old: Results, new: Results, name: str, figure: str) -> Check:
    (found,) = [
        each
        for each in compare(old, new).checks
        if (each.model, each.row, each.figure) == ("cnn", name, figure)
    ]
    return found


def set_right(row: Row, right: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    row["right"] = packed(right)
    row["accuracy"]["correct"] = int(right.sum())
    row["accuracy"]["value"] = right.mean()


def right(row: Row) -> np.ndarray[Any, np.dtype[np.bool_]]:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(row["right"])), np.uint8)
    return np.unpackbits(bits).astype(bool)[: row["accuracy"]["images"]]


# Times


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_row_that_got_slower_is_a_regression(old: Results, new: Results, clock: str) -> None:
    slow_down(row(new, "int8")[clock], 1.09)
    assert worse(old, new) == []
    slow_down(row(new, "int8")[clock], 1.03)
    assert worse(old, new) == [f"int8: {clock} p50"]
    found = check(old, new, "int8", f"{clock} p50")
    assert found.worse == pytest.approx(1.09 * 1.03)
    assert found.sentence().startswith(f"cnn: int8: {clock} p50: 1.12 times worse (0.")
    assert check(new, old, "int8", f"{clock} p50").found == BETTER


def test_a_reference_that_is_slower_now_is_judged_by_the_clock_alone(old: Results, new: Results) -> None:
    slow_down(row(new, "float32")["query"], 1.4)
    assert worse(old, new) == []
    slow_down(row(new, "float32")["query"], 1.2)
    assert worse(old, new) == ["float32: query p50"]
    assert check(old, new, "int8", "query p50").found == BETTER
    new["environment"]["cores"] = 4
    assert worse(old, new) == []
    assert check(old, new, "float32", "query p50").found == UNJUDGED


def test_on_another_machine_only_what_takes_three_times_as_long_counts(old: Results, new: Results) -> None:
    new["environment"]["cpu"] = "Cortex-A76"
    slow_down(row(new, "int8")["query"], 2.9)
    comparison = compare(old, new)
    assert comparison.regressions == []
    assert "another machine: AMD EPYC, 2 cores before, Cortex-A76, 2 cores now" in comparison.remarks[0]
    slow_down(row(new, "int8")["query"], 1.1)
    assert worse(old, new) == ["int8: query p50", "int8: query p99"]


def test_the_rounds_of_both_files_widen_the_band(old: Results, new: Results) -> None:
    slow_down(row(new, "int8")["query"], 1.2)
    assert worse(old, new) == ["int8: query p50"]
    for made in (old, new):
        row(made, "int8")["query"]["windows_p50_us"][1] *= 1.12
    assert worse(old, new) == []
    slow_down(row(new, "int8")["query"], 1.2)
    assert worse(old, new) == ["int8: query p50"]


def test_what_never_settled_is_told_and_judged_by_its_unsteadiness(old: Results, new: Results) -> None:
    timing = row(new, "int8")["query"]
    timing.update(
        stable=False, p50_us=timing["p50_us"] * 1.6, windows_p50_us=[each * f for each, f in
        zip(timing["windows_p50_us"], (1.0, 1.6, 2.0), strict=True)],
    )  # fmt: skip
    comparison = compare(old, new)
    assert comparison.regressions == []
    assert comparison.remarks == ["cnn: unstable, judged with a wider band: int8"]
    slow_down(timing, 1.5)
    assert worse(old, new) == ["int8: query p50"]


def test_a_tail_must_double(old: Results, new: Results) -> None:
    row(new, "int8")["query"]["p99_us"] *= 1.9
    assert worse(old, new) == []
    row(new, "int8")["query"]["p99_us"] *= 1.1
    assert worse(old, new) == ["int8: query p99"]
    row(new, "int8")["query"]["p99_us"] = None
    found = check(old, new, "int8", "query p99")
    assert (found.found, found.note) == (UNJUDGED, "too few samples, now or in the reference")


def test_a_batch_that_got_slower_is_a_regression(old: Results, new: Results) -> None:
    slow_down(row(new, "int8")["batches"]["64"]["timing"], 1.2)
    assert worse(old, new) == ["int8: batch of 64 p50"]


@pytest.mark.parametrize("clock", CLOCKS)
def test_what_is_not_timed_any_more_is_a_regression(old: Results, new: Results, clock: str) -> None:
    row(new, "int8")[clock] = None
    assert worse(old, new) == [f"int8: {clock} p50"]
    assert "measured before, but not now" in check(old, new, "int8", f"{clock} p50").sentence()


# Throughput


@pytest.mark.parametrize(
    ("measured", "figure"), [("server", "images/s under the bound"), ("sweep", "images/s in a closed loop")]
)
def test_less_throughput_is_a_regression(old: Results, new: Results, measured: str, figure: str) -> None:
    name = "embedded TFLite, gRPC"

    def fall(factor: float) -> None:
        if measured == "server":
            row(new, name)["scenarios"]["server"]["rate"] /= factor
        for step in row(new, name)["sweep"]:
            step["rate"] /= factor

    if measured == "sweep":
        for made in (old, new):
            row(made, name)["scenarios"]["server"] = None
    fall(1.2)
    assert worse(old, new) == []
    fall(1.2)
    assert worse(old, new) == [f"{name}: {figure}"]
    assert check(old, new, name, figure).worse == pytest.approx(1.44)


def test_a_step_of_the_rates_tried_is_no_regression(old: Results, new: Results) -> None:
    name = "embedded TFLite, gRPC"
    for made in (old, new):
        server = row(made, name)["scenarios"]["server"]
        server["trials"] = [each for each in server["trials"] if each["rate"] == server["rate"]]
        server["trials"].append({**server["trials"][0], "rate": server["rate"] / 1.5})
    server["rate"] /= 1.45
    assert worse(old, new) == []


def test_a_server_that_keeps_the_bound_at_no_rate_is_a_regression(old: Results, new: Results) -> None:
    name = "embedded TFLite, gRPC"
    row(new, name)["scenarios"]["server"].update(rate=None, p99_ms=None)
    assert worse(old, new) == [f"{name}: images/s under the bound"]
    row(new, name)["scenarios"]["server"] = None
    assert check(old, new, name, "images/s under the bound").found == UNJUDGED


def test_another_bound_leaves_the_sweep(old: Results, new: Results) -> None:
    new["bound_ms"] = 15.0
    row(new, "embedded TFLite, gRPC")["scenarios"]["server"]["rate"] /= 10
    comparison = compare(old, new)
    assert comparison.regressions == []
    assert comparison.remarks == [
        "another latency bound: 10 ms before, 15 ms now; the Server scenario isn't judged"
    ]
    assert "images/s in a closed loop" in {each.figure for each in comparison.checks}


# Sizes, memory, what wasn't measured


@pytest.mark.parametrize(
    ("field", "figure", "fine", "too_much"),
    [
        ("bytes", "size", 1.009, 1.011),
        ("arena_bytes", "arena", 1.009, 1.011),
        ("peak_bytes", "peak memory", 1.19, 1.21),
    ],
)
def test_what_takes_more_space_is_a_regression(
    old: Results, new: Results, field: str, figure: str, fine: float, too_much: float
) -> None:
    before = row(old, "int8")[field]
    row(new, "int8")[field] = round(before * fine)
    assert worse(old, new) == []
    row(new, "int8")[field] = round(before * too_much)
    assert worse(old, new) == [f"int8: {figure}"]


def test_what_could_not_be_measured_is_told_with_its_reason(old: Results, new: Results) -> None:
    row(new, "int8").update(arena_bytes=None, empty={"arena_bytes": "tflite-micro isn't installed"})
    comparison = compare(old, new)
    assert comparison.regressions == []
    assert comparison.remarks == ["not judged: cnn: int8: arena: tflite-micro isn't installed"]


def test_without_its_reference_a_model_is_not_timed(old: Results, new: Results) -> None:
    new["models"]["cnn"]["rows"].remove(row(new, "float32"))
    assert worse(old, new) == ["float32: row"]
    assert check(old, new, "int8", "query p50").note == "the reference wasn't measured"


# Accuracy


def changed(old: Results, new: Results, losses: int, wins: int) -> Check:
    hits = right(row(old, "int8"))
    hits[np.flatnonzero(hits)[:losses]] = False
    hits[np.flatnonzero(~right(row(old, "int8")))[:wins]] = True
    set_right(row(new, "int8"), hits)
    return check(old, new, "int8", "accuracy")


@pytest.mark.parametrize(
    ("losses", "wins", "found"),
    [
        (7, 0, NOISE),  # p 0.016
        (8, 0, WORSE),  # p 0.008
        (0, 8, BETTER),
        (20, 20, NOISE),
        (60, 55, NOISE),
    ],
)
def test_accuracy_is_judged_image_by_image(
    old: Results, new: Results, losses: int, wins: int, found: str
) -> None:
    assert changed(old, new, losses, wins).found == found


def test_a_large_drop_counts_without_significance(old: Results, new: Results) -> None:
    for made in (old, new):
        small = row(made, "int8")
        small["accuracy"]["images"] = 1_000
        set_right(small, np.arange(1_000) < 990)
    assert changed(old, new, 5, 0).found == NOISE
    found = changed(old, new, 6, 0)
    assert found.found == WORSE
    assert found.sentence() == (
        "cnn: int8: accuracy: 0.9900 before, 0.9840 now (0 images won, 6 lost, p 0.031)"
    )


def test_of_other_images_the_intervals_must_be_apart(old: Results, new: Results) -> None:
    row(new, "int8")["accuracy"].update(images=1_000, correct=985, value=0.985, interval95=[0.975, 0.991])
    assert check(old, new, "int8", "accuracy").found == WORSE
    row(new, "int8")["accuracy"].update(correct=989, value=0.989, interval95=[0.98, 0.994])
    found = check(old, new, "int8", "accuracy")
    assert found.found == NOISE
    assert "of 10,000 images before, of 1,000 now" in found.note


@pytest.mark.parametrize("text", ["%", "AAAA", packed(np.ones(80, bool)), packed(np.zeros(10_000, bool))])
def test_a_damaged_row_is_a_clear_error(old: Results, new: Results, text: str) -> None:
    row(new, "int8")["right"] = text
    with pytest.raises(ArtifactError, match="int8: `right` .*; measure again"):
        compare(old, new)
