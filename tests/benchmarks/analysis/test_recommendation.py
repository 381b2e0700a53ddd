import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from results_fixtures import MODELS, results
from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.analysis.ratios import known, ratio
from tfship.benchmarks.analysis.recommendation import OBJECTIVES, gain, judge
from tfship.benchmarks.harness.timer import settled
from tfship.export.conversion.formats import FORMATS
from tfship.train.common.errors import UsageError

Results = dict[str, Any]


@pytest.fixture
def made() -> Results:
    return results()


def row(made: Results, name: str, model: str = "cnn") -> dict[str, Any]:
    (found,) = [each for each in made["models"][model]["rows"] if each["name"] == name]
    return found  # type: ignore[no-any-return]


def slow_down(timing: dict[str, Any], factor: float) -> None:
    for name in ("p50_us", "p90_us", "p99_us", "p99.9_us"):
        timing[name] = timing[name] and timing[name] * factor
    for name in ("windows_p50_us", "quantiles_us"):
        timing[name] = [each * factor for each in timing[name]]


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


def explained(made: Results, name: str) -> str:
    (found,) = [each for each in judge(made)["models"]["cnn"]["slower"] if each["row"] == name]
    return str(found["sentence"])


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
        "Lowest latency on this machine (AMD EPYC, 2 cores): int8 with 20.5 µs for an image (p50, model only), "
        "0.10 times float32's time (0.10–0.10 over 3 rounds); "
        "accuracy 0.9938 against 0.9939 (of 10,000 images 0 won, 1 lost, p 1)."
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
    assert "no row settled" in found["sentence"]


def test_of_rows_that_cannot_be_told_apart_the_smallest_is_recommended(made: Results) -> None:
    set_time(row(made, "int8")["query"], 20.0)
    set_time(row(made, "float16")["query"], 19.8)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert found["sentence"].endswith(
        "float16 can't be told apart from it here; int8 is smaller (543 KiB against 1,069 KiB or more)."
    )
    set_time(row(made, "float16")["query"], 15.0)
    assert recommended(made, "latency")["row"] == "float16"


def test_of_those_that_are_as_small_the_one_with_the_fewest_threads_is(made: Results) -> None:
    set_time(row(made, "int8")["query"], 20.0)
    set_time(row(made, "int8, 2 threads")["query"], 19.8)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "int8, 2 threads can't be told apart" in found["sentence"]
    assert "needs the fewest threads" in found["sentence"]
    set_time(row(made, "selective")["query"], 19.9)
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "as small and need as few threads int8 is the simplest" in found["sentence"]


def test_a_row_that_was_asked_fewer_images_is_compared_on_those(made: Results) -> None:
    fewer = row(made, "int8")
    set_time(fewer["query"], 10.0)
    # The first images are the harder ones: float32 itself has no more of them right.
    fewer["accuracy"].update(value=0.90, correct=1_800, images=2_000)
    fewer["against_float32"] = {"disagreements": 0, "wins": 0, "losses": 0, "mcnemar_p": 1.0}
    found = recommended(made, "latency")
    assert found["row"] == "int8"
    assert "accuracy float32's image by image, of the first 2,000" in found["sentence"]
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
    assert "int8 is as small; int8_uint8 takes uint8 pixels as they are." in found["sentence"]
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
    assert "no integer format keeps float32's accuracy to within 0.005" in found["sentence"]


def test_a_size_needs_no_steady_time(made: Results) -> None:
    row(made, "int8_uint8")["query"]["stable"] = False
    found = recommended(made, "size")
    assert found["row"] == "int8_uint8"
    assert "and never settled" in found["sentence"]


# Highest throughput behind a server


def test_the_highest_rate_under_the_bound_is_recommended(made: Results) -> None:
    found = recommended(made, "throughput")
    assert found["row"] == "embedded TFLite, gRPC"
    assert (
        "3,145 images/s, 99 % of them answered within 10 ms (p99 9.1 ms; 3,700/s were too many), 1.23 times that of "
        "embedded TFLite, REST JSON (2,550/s)" in found["sentence"]
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
        "embedded TFLite, REST JSON can't be told apart from it here; embedded TFLite, gRPC answers"
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
    assert "no served row was put under load" in found["sentence"]


# Objectives


def test_an_objective_leaves_the_others_out(made: Results) -> None:
    for model in MODELS:
        all_ = judge(made)["models"][model]["recommendations"]
        assert [each["use"] for each in all_] == list(OBJECTIVES) == ["latency", "size", "throughput"]
        for each in all_:
            assert judge(made, each["use"])["models"][model]["recommendations"] == [each]


def test_what_cannot_be_asked_for_is_refused(made: Results) -> None:
    with pytest.raises(
        UsageError, match="no objective is called 'speed'; there are latency, size, throughput"
    ):
        judge(made, "speed")
    with pytest.raises(UsageError, match="expected a share from 0 to 1"):
        judge(made, max_accuracy_drop=5)


# Slower, because


def test_only_what_is_slower_in_every_round_is_called_slower(made: Results) -> None:
    names = [each["row"] for each in judge(made)["models"]["cnn"]["slower"]]
    assert [name for name in names if "embedded" not in name] == ["int16x8"]
    reference = row(made, "float32")["query"]
    row(made, "int8")["query"].update(
        windows_p50_us=[each * 1.2 for each in reference["windows_p50_us"]], p50_us=reference["p50_us"] * 1.2
    )
    assert "int8 takes 1.20 times float32's time (1.20–1.20 over 3 rounds)" in explained(made, "int8")
    row(made, "int8")["query"]["windows_p50_us"][1] = reference["windows_p50_us"][1] * 1.05
    assert "int8" not in [each["row"] for each in judge(made)["models"]["cnn"]["slower"]]


def test_operators_that_xnnpack_does_not_run_are_the_reason(made: Results) -> None:
    sentence = explained(made, "int16x8")
    assert (
        "because XNNPACK doesn't run its CONV_2D, MAX_POOL_2D, RESHAPE, FULLY_CONNECTED and SOFTMAX"
        in sentence
    )
    assert "TFLite's own kernels take 344 µs for what takes XNNPACK 241 µs in float32" in sentence
    assert "with 2 threads each it is 2.2" in sentence
    for each in made["models"]["cnn"]["operators"]["int16x8"]:
        each["delegated"] = True
    sentence = explained(made, "int16x8")
    assert "XNNPACK doesn't run" not in sentence
    assert (
        "XNNPACK is slower at the same operators: CONV_2D of conv2d_1 takes 243 µs instead of 168 µs"
        in sentence
    )


def test_what_the_reference_leaves_to_tflite_too_is_no_reason(made: Results) -> None:
    for name in ("float32", "int16x8"):
        for each in made["models"]["cnn"]["operators"][name]:
            each["delegated"] = False
    assert "XNNPACK doesn't run" not in explained(made, "int16x8")


def slowed_int8(made: Results, **operators: float) -> dict[str, Any]:
    """Have int8 take 1.2 times float32's time, with float32's operators but for those given."""
    reference, here = row(made, "float32"), row(made, "int8")
    here["query"] = {**reference["query"]}
    slow_down(here["query"], 1.2)
    for count, batch in reference["batches"].items():
        here["batches"][count] = {"rate": batch["rate"], "timing": {**batch["timing"]}}
        slow_down(here["batches"][count]["timing"], 1.2)
    found = made["models"]["cnn"]["operators"]
    found["int8"] = [
        {**each, "us": each["us"] * operators.get(each["operator"], 1)} for each in found["float32"]
    ]
    return here


def test_changing_the_type_of_numbers_is_a_reason(made: Results) -> None:
    slowed_int8(made)
    made["models"]["cnn"]["operators"]["int8"].insert(
        0, {"operator": "QUANTIZE", "name": "image", "us": 30.0, "delegated": True}
    )
    assert "changing its numbers' type (QUANTIZE) takes 30 µs, 11 % of its operators' time" in explained(
        made, "int8"
    )
    made["models"]["cnn"]["operators"]["int8"][0]["us"] = 2.0
    assert "changing" not in explained(made, "int8")


def test_the_largest_reason_comes_first(made: Results) -> None:
    slowed_int8(made, CONV_2D=1.15)
    sentence = explained(made, "int8")
    assert sentence.index("XNNPACK is slower at the same operators") < sentence.index(
        "more go outside its operators"
    )
    slowed_int8(made, MAX_POOL_2D=2.0)
    sentence = explained(made, "int8")
    assert sentence.index("more go outside its operators") < sentence.index(
        "MAX_POOL_2D of max_pooling2d takes 16.2 µs"
    )


def test_a_batch_that_closes_the_gap_is_a_reason(made: Results) -> None:
    here = slowed_int8(made)
    assert "too little work" not in explained(made, "int8")
    slow_down(here["batches"]["64"]["timing"], 1 / 1.18)
    assert (
        "one image is too little work for what a call of it costs: in batches of 64 it takes only 1.02 times"
        in explained(made, "int8")
    )


def test_where_nothing_explains_it_that_is_said(made: Results) -> None:
    slowed_int8(made)
    made["models"]["cnn"]["operators"]["int8"][0]["us"] += row(made, "float32")["query"]["p50_us"] * 0.19
    made["models"]["cnn"]["operators"]["int8"][0]["name"] = "something that float32 lacks"
    sentence = explained(made, "int8")
    assert sentence.endswith("and neither its operators nor larger batches say why.")
    assert "because" not in sentence
    del made["models"]["cnn"]["operators"]["int8"]
    assert explained(made, "int8").endswith("and why isn't known: its operators weren't timed.")


def test_threads_are_told_only_where_float32_gains_more_by_them(made: Results) -> None:
    row(made, "int16x8, 2 threads")["query"] = {**row(made, "int16x8")["query"]}
    slow_down(row(made, "int16x8, 2 threads")["query"], 0.64)
    assert "threads" not in explained(made, "int16x8")


def test_behind_a_server_the_parts_of_a_request_are_the_reason(made: Results) -> None:
    name = "embedded TFLite, gRPC"
    parts = row(made, name)["parts_us"]
    parts.update(dict.fromkeys(parts, 1.0), network=81.0, inference=13.0)
    assert (
        "because 87 % of a request isn't inference: 81 µs on the way and in the server's protocol (81 %)."
        in (explained(made, name))
    )
    parts.update(network=1.0, inference=400.0)
    assert explained(made, name).endswith("and 98 % of a request is inference.")
    row(made, name)["parts_us"] = None
    assert explained(made, name).endswith("and its parts weren't timed.")


# Properties


@settings(max_examples=25)
@given(factor=st.floats(0.01, 100))
def test_a_slower_machine_changes_no_verdict(factor: float) -> None:
    before, drifted = results(), results()
    for model in drifted["models"].values():
        for each in model["rows"]:
            slow_down(each["query"], factor)
    for name in MODELS:
        one, other = judge(before)["models"][name], judge(drifted)["models"][name]
        assert one["front"] == other["front"]
        assert one["ranking"] == other["ranking"]
        assert [each["row"] for each in one["recommendations"]] == [
            each["row"] for each in other["recommendations"]
        ]
        assert [each["row"] for each in one["slower"]] == [each["row"] for each in other["slower"]]


@given(
    st.lists(st.floats(1, 1e6), min_size=1, max_size=10), st.lists(st.floats(1, 1e6), min_size=1, max_size=10)
)
def test_a_ratio_lies_within_its_span_and_is_the_inverse_of_the_other(
    mine: list[float], its: list[float]
) -> None:
    # Steady from the first round on, or never.
    assume(not settled(mine) and not settled(its))
    here, there = _timing(mine), _timing(its)
    found, inverse = ratio(here, there), ratio(there, here)
    assert found
    assert inverse
    assert found.low <= found.value <= found.high
    assert found.rounds == min(len(mine), len(its))
    assert found.value * inverse.value == pytest.approx(1)
    assert found.low * inverse.high == pytest.approx(1)
    assert ratio(here, here).apart is False  # type: ignore[union-attr]


def _timing(medians: list[float], undisturbed: Sequence[float | None] = ()) -> dict[str, Any]:
    there = [each for each in undisturbed if each]
    return {
        "p50_us": sorted(medians)[len(medians) // 2] if medians else None,
        "windows_p50_us": medians,
        "undisturbed_p50_us": statistics.median(there) if there else None,
        "windows_undisturbed_p50_us": list(undisturbed) or [None] * len(medians),
    }


def test_of_many_rounds_the_span_holds_the_median_with_95_percent() -> None:
    reference = _timing([1.0] * 10)
    rounds = [0.3, 1.2, 1.9, 1.3, 1.5, 1.6, 1.7, 1.8, 1.4, 9.0]
    found = ratio(_timing(rounds), reference)
    assert found
    # The lowest and the highest of ten may be chance (98 %), of eight neither (93 % would be left).
    assert (found.low, found.high, found.rounds) == (1.2, 1.9, 10)
    fewer = ratio(_timing(rounds[:8]), reference)
    assert fewer
    assert (fewer.low, fewer.high) == (0.3, 1.9)


def test_a_ratio_is_of_what_was_undisturbed() -> None:
    # Half of the time a neighbour slows both down, one of them more than the other.
    here = _timing([8.0, 4.0, 8.0, 4.0, 8.0], [None, 4.0, None, 4.0, 4.0])
    there = _timing([12.0, 8.0, 12.0, 8.0, 12.0], [8.0, 8.0, None, 8.0, 8.0])
    found = ratio(here, there)
    assert found
    assert (found.value, found.low, found.high, found.rounds) == (0.5, 0.5, 0.5, 3)
    # Two such rounds are too few.
    here["windows_undisturbed_p50_us"][1] = None
    found = ratio(here, there)
    assert found
    assert found.rounds == 5
    assert found.value > 0.6


def test_only_rounds_that_count_for_both_are_the_span() -> None:
    # One settled at once; the other was slow for two rounds, which don't count.
    here = _timing([50.0, 40.0, 10.0, 10.0, 10.5])
    there = _timing([20.0, 20.0, 20.0])
    found = ratio(here, there)
    assert found
    assert (found.low, found.value, found.high) == (0.5, 0.5, 0.5)
    # They have no round in common: every window of one beside every one of the other.
    later = _timing([50.0, 40.0, 30.0, 10.0, 10.0, 11.0])
    there = _timing([20.0, 20.0, 22.0])
    found = ratio(later, there)
    assert found
    assert found.low == pytest.approx(10 / 22)
    assert found.high == pytest.approx(11 / 20)


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
    assert "never settled" not in recommended["sentence"]


def test_there_is_no_ratio_to_nothing() -> None:
    timing = _timing([3.0])
    assert ratio(None, timing) is None
    assert ratio(timing, {**_timing([]), "p50_us": None}) is None


def test_words() -> None:
    assert formatting.listed(["a"]) == "a"
    assert formatting.listed(["a", "b", "c"]) == "a, b and c"
    assert formatting.listed(["a, b", "c", "d"]) == "a, b; c and d"
    assert (formatting.microseconds(5.236), formatting.microseconds(1234.5)) == ("5.24 µs", "1,234 µs")
    assert (formatting.size(6_420), formatting.size(102_312)) == ("6,420 bytes", "100 KiB")
    assert (formatting.times(1.234), formatting.times(73.26)) == ("1.23", "73.3")
