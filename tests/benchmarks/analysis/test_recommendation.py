"""The formats' front and ranking, and the recommendation for each use."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis_fixtures import Results, row, slow_down
from results_fixtures import MODELS, results
from tfship.benchmarks.analysis.ratios import known, ratio
from tfship.benchmarks.analysis.recommendation import OBJECTIVES, gain, judge
from tfship.export.conversion.formats import FORMATS
from tfship.train.common.errors import UsageError


@pytest.fixture
def made() -> Results:
    return results()


def set_time(timing: dict[str, Any], us: float) -> None:
    slow_down(timing, us / timing["p50_us"])


def lose(made: Results, name: str, losses: int, p: float) -> None:
    found = row(made, name)
    found["accuracy"]["correct"] -= losses
    found["accuracy"]["value"] -= losses / found["accuracy"]["images"]
    lost = found["against_float32"]["losses"] + losses
    found["against_float32"] = {"disagreements": lost, "wins": 0, "losses": lost, "mcnemar_p": p}


def recommended(made: Results, use: str, **settings_: Any) -> dict[str, Any]:
    (found,) = judge(made, use, **settings_)["models"]["cnn"]["recommendations"]
    assert found["use"] == use
    return found  # type: ignore[no-any-return]


def front(made: Results) -> list[str]:
    return judge(made)["models"]["cnn"]["front"]  # type: ignore[no-any-return]


# The front


def test_no_row_of_the_front_is_beaten_and_all_others_are(made: Results) -> None:
    for name, model in judge(made)["models"].items():
        rows = [each for each in made["models"][name]["rows"] if each["kind"] != "served"]
        float32 = row(made, "float32", name)["query"]
        costs = {
            each["name"]: (found.value, each["bytes"])
            for each in rows
            if (found := ratio(each["query"], float32))
        }
        for each in costs:
            # No accuracy differs for real in these results.
            beaten = any(
                its != costs[each] and its[0] <= costs[each][0] and its[1] <= costs[each][1]
                for its in costs.values()
            )
            assert (each in model["front"]) == (not beaten), each


def test_formats_are_ranked_and_those_that_are_hardly_apart_share_a_rank(made: Results) -> None:
    def times(name: str) -> float:
        found = ratio(row(made, name)["query"], row(made, "float32")["query"])
        assert found
        return found.value

    int8 = row(made, "int8")["query"]
    row(made, "selective")["query"]["windows_p50_us"] = [each * 1.04 for each in int8["windows_p50_us"]]
    row(made, "dynamic")["query"]["windows_p50_us"] = [each * 1.08 for each in int8["windows_p50_us"]]
    ranking = judge(made)["models"]["cnn"]["ranking"]
    names = [name for rank in ranking for name in rank]
    assert sorted(names) == sorted({*FORMATS, "savedmodel", "keras"})
    order = [each["name"] for each in made["models"]["cnn"]["rows"]]
    assert all(rank == sorted(rank, key=order.index) for rank in ranking)
    ranking = [sorted(rank, key=times) for rank in ranking]
    for rank, following in zip(ranking, [*ranking[1:], None], strict=True):
        assert all(times(b) <= 1.05 * times(a) for a, b in itertools.pairwise(rank))
        assert following is None or times(following[0]) > 1.05 * times(rank[-1])
    (with_int8,) = [rank for rank in ranking if "int8" in rank]
    # One leads to the next, though the first and the last of them are further apart.
    assert {"selective", "dynamic"} <= {*with_int8}
    # What has no median has no rank.
    row(made, "int8")["query"].update(p50_us=None, windows_p50_us=[])
    assert "int8" not in [name for rank in judge(made)["models"]["cnn"]["ranking"] for name in rank]


def test_accuracy_counts_where_it_is_real(made: Results) -> None:
    others = {each["name"] for each in made["models"]["cnn"]["rows"]} - {"float32", "float32, 2 threads"}
    for name in others:
        lose(made, name, 12, 0.06)
    assert "float32, 2 threads" not in front(made)
    for name in others:
        row(made, name)["against_float32"]["mcnemar_p"] = 0.04
    assert "float32, 2 threads" in front(made)


def test_what_never_settled_is_not_on_the_front(made: Results) -> None:
    for name in front(made):
        row(made, name)["query"]["stable"] = False
        assert name not in front(made)


def test_served_rows_are_not_on_the_front(made: Results) -> None:
    set_time(row(made, "embedded TFLite, gRPC")["query"], 1.0)
    assert "embedded TFLite, gRPC" not in front(made)


# Lowest latency


def test_the_fastest_row_is_recommended_with_its_numbers(made: Results) -> None:
    for name in ("windows_p50_us", "p50_us"):
        row(made, "int8")["query"][name] = {"windows_p50_us": [20.0, 20.5, 21.0], "p50_us": 20.5}[name]
    row(made, "float32")["query"].update(windows_p50_us=[200.0, 205.0, 200.0], p50_us=205.0)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert found["sentence"] == (
        "Lowest latency on this machine (AMD EPYC, 2 cores): int8 with 20.5 µs per image (p50, model only), "
        "0.10 times float32's time (0.10–0.10 over 3 rounds); "
        "accuracy 0.9938, float32 0.9939 (10,000 images: 0 won, 1 lost, p 1)."
    )


def test_a_row_that_loses_too_much_accuracy_is_not_recommended(made: Results) -> None:
    set_time(row(made, "dynamic")["query"], 10.0)
    assert recommended(made, "latency")["row"] == "dynamic"
    lose(made, "dynamic", 50, 1e-9)
    assert recommended(made, "latency")["row"] == "dynamic"
    lose(made, "dynamic", 1, 1e-9)
    assert recommended(made, "latency")["row"] != "dynamic"
    assert recommended(made, "latency", max_accuracy_drop=0.0051)["row"] == "dynamic"


def test_a_row_that_never_settled_is_not_recommended(made: Results) -> None:
    set_time(row(made, "dynamic")["query"], 10.0)
    row(made, "dynamic")["query"]["stable"] = False
    assert recommended(made, "latency")["row"] != "dynamic"
    for each in made["models"]["cnn"]["rows"]:
        each["query"]["stable"] = False
    found = recommended(made, "latency")
    assert found["row"] is None
    assert "no row with an accuracy loss of at most 0.005 has stable times" in found["sentence"]


def test_of_rows_that_cannot_be_told_apart_the_smallest_is_recommended(made: Results) -> None:
    set_time(row(made, "int8")["query"], 20.0)
    set_time(row(made, "float16")["query"], 19.8)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert found["sentence"].endswith(
        "float16 is equally fast within noise; int8 is smaller (543 KiB instead of at least 1,069 KiB)."
    )
    set_time(row(made, "float16")["query"], 15.0)
    assert recommended(made, "latency")["row"] == "float16"


def test_of_those_that_are_as_small_the_one_with_the_fewest_threads_is(made: Results) -> None:
    set_time(row(made, "int8")["query"], 20.0)
    set_time(row(made, "int8, 2 threads")["query"], 19.8)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "int8, 2 threads is equally fast" in found["sentence"]
    assert "needs the fewest threads" in found["sentence"]
    set_time(row(made, "selective")["query"], 19.9)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "among those of the same size and number of threads, int8 is the simplest" in found["sentence"]


def test_a_row_that_was_asked_fewer_images_is_compared_on_those(made: Results) -> None:
    fewer = row(made, "int8")
    set_time(fewer["query"], 10.0)
    # The first images are the harder ones: float32 itself has no more of them right.
    fewer["accuracy"].update(value=0.90, correct=1_800, images=2_000)
    fewer["against_float32"] = {"disagreements": 0, "wins": 0, "losses": 0, "mcnemar_p": 1.0}
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "the same images right as with float32 (first 2,000 only)" in found["sentence"]
    assert gain(fewer) == 0
    fewer["against_float32"] = {"disagreements": 11, "wins": 0, "losses": 11, "mcnemar_p": 0.001}
    assert recommended(made, "latency")["row"] != "int8"


def test_a_brief_sweep_has_no_99th_percentile(made: Results) -> None:
    for each in made["models"]["cnn"]["rows"]:
        if each["kind"] == "served":
            each["scenarios"]["server"] = None
            for step in each["sweep"]:
                step["p99_ms"] = None
    assert "(p50 " in recommended(made, "throughput")["sentence"]
    for each in made["models"]["cnn"]["rows"]:
        for step in each["sweep"] or ():
            step["p50_ms"] = None
    assert "connections (one run; " in recommended(made, "throughput")["sentence"]


# Smallest for a device


def test_the_smallest_integer_file_is_recommended_with_its_arena(made: Results) -> None:
    found = recommended(made, "size")
    assert found["row"] == "int8_uint8"
    assert "a file of 543 KiB and an arena of 60 KiB" in found["sentence"]
    assert "int8 is equally small; int8_uint8 takes uint8 pixels without conversion." in found["sentence"]
    row(made, "int8")["arena_bytes"] -= 20_000
    found = recommended(made, "size")
    assert found["row"] == "int8"
    assert "an arena of 41 KiB" in found["sentence"]


def test_an_arena_that_was_not_measured_is_said_not_to_be(made: Results) -> None:
    for name in ("int8", "int8_uint8"):
        row(made, name)["arena_bytes"] = None
    assert "its arena wasn't measured" in recommended(made, "size")["sentence"]


def test_where_no_integer_file_is_accurate_the_smallest_other_is_recommended(made: Results) -> None:
    for name in FORMATS:
        if FORMATS[name].integer:
            lose(made, name, 100, 1e-9)
    found = recommended(made, "size")
    assert found["row"] == "dynamic"
    assert "there is no integer format with an accuracy loss of at most 0.005" in found["sentence"]


def test_a_size_needs_no_steady_time(made: Results) -> None:
    row(made, "int8_uint8")["query"]["stable"] = False
    found = recommended(made, "size")
    assert found["row"] == "int8_uint8"
    assert ", unstable; " in found["sentence"]


# Highest throughput behind a server


def test_the_highest_rate_under_the_bound_is_recommended(made: Results) -> None:
    found = recommended(made, "throughput")
    assert found["row"] == "embedded TFLite, gRPC"
    assert (
        "3,145 images/s, 99 % of responses within 10 ms (p99 9.1 ms; 3,700/s missed the bound), 1.23 times the "
        "rate of embedded TFLite, REST JSON (2,550/s)" in found["sentence"]
    )
    row(made, "embedded SavedModel, gRPC")["scenarios"]["server"]["rate"] = 9_000.0
    found = recommended(made, "throughput")
    assert found["row"] == "embedded SavedModel, gRPC"
    assert "no higher rate was tried" in found["sentence"]


def test_rates_that_cannot_be_told_apart_are_said_to_be(made: Results) -> None:
    row(made, "embedded TFLite, REST JSON")["scenarios"]["server"]["rate"] = 3_200.0
    found = recommended(made, "throughput")
    assert found["row"] == "embedded TFLite, gRPC"
    assert (
        "embedded TFLite, REST JSON is equally fast within noise; embedded TFLite, gRPC has the lowest latency"
        in found["sentence"]
    )


def test_without_the_server_scenario_the_sweep_decides(made: Results) -> None:
    for each in made["models"]["cnn"]["rows"]:
        each["scenarios"]["server"] = None
    row(made, "embedded SavedModel, gRPC")["sweep"][2]["rate"] = 8_000.0
    found = recommended(made, "throughput")
    assert found["row"] == "embedded SavedModel, gRPC"
    assert "8,000 images/s in a closed loop of 32 connections" in found["sentence"]
    for each in made["models"]["cnn"]["rows"]:
        each["sweep"] = None
    found = recommended(made, "throughput")
    assert found["row"] is None
    assert "was measured under load" in found["sentence"]


# Objectives


def test_an_objective_leaves_the_others_out(made: Results) -> None:
    for model in MODELS:
        all_ = judge(made)["models"][model]["recommendations"]
        assert [each["use"] for each in all_] == list(OBJECTIVES) == ["latency", "size", "throughput"]
        for each in all_:
            assert judge(made, each["use"])["models"][model]["recommendations"] == [each]


def test_what_cannot_be_asked_for_is_refused(made: Results) -> None:
    with pytest.raises(
        UsageError, match="unknown objective 'speed'; expected one of latency, size, throughput"
    ):
        judge(made, "speed")
    with pytest.raises(UsageError, match="expected a share from 0 to 1"):
        judge(made, max_accuracy_drop=5)


# Properties


@settings(max_examples=25)
@given(factor=st.floats(0.01, 100))
def test_a_slower_machine_changes_no_verdict(factor: float) -> None:
    drifted = results()
    for model in drifted["models"].values():
        for each in model["rows"]:
            slow_down(each["query"], factor)
    before, after = judge(results())["models"], judge(drifted)["models"]
    for name in MODELS:
        one, other = before[name], after[name]
        assert one["front"] == other["front"]
        assert one["ranking"] == other["ranking"]
        assert [each["row"] for each in one["recommendations"]] == [
            each["row"] for each in other["recommendations"]
        ]
        assert [each["row"] for each in one["slower"]] == [each["row"] for each in other["slower"]]


def test_what_settled_where_it_was_undisturbed_can_be_trusted(made: Results) -> None:
    best = judge(made)["models"]["cnn"]["recommendations"][0]["row"]
    timing = row(made, best)["query"]
    wild = [
        each * factor
        for each, factor in zip(timing["windows_p50_us"], itertools.cycle((1.0, 1.7)), strict=False)
    ]
    timing.update(stable=False, windows_p50_us=wild)
    assert not known(timing)
    assert judge(made)["models"]["cnn"]["recommendations"][0]["row"] != best
    for each in made["models"]["cnn"]["rows"]:
        if each["query"]["stable"] or each["name"] == best:
            us = each["query"]["p50_us"]
            each["query"].update(undisturbed_p50_us=us, windows_undisturbed_p50_us=[us, None, us * 1.02, us])
    assert known(timing)
    recommended = judge(made)["models"]["cnn"]["recommendations"][0]
    assert recommended["row"] == best
    assert "unstable" not in recommended["sentence"]
