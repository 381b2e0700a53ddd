"""The reasons why rows are slower than float32."""

from typing import Any

import pytest

from analysis_fixtures import Results, row, slow_down
from results_fixtures import results
from tfship.benchmarks.analysis.recommendation import judge


@pytest.fixture
def made() -> Results:
    return results()


def explained(made: Results, name: str) -> str:
    (found,) = [each for each in judge(made)["models"]["cnn"]["slower"] if each["row"] == name]
    return str(found["sentence"])


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
    assert (
        "TFLite's built-in kernels take 344 µs, XNNPACK takes 241 µs for the same operators in float32"
        in sentence
    )
    assert "with 2 threads for both the ratio is 2.2" in sentence
    for each in made["models"]["cnn"]["operators"]["int16x8"]:
        each["delegated"] = True
    sentence = explained(made, "int16x8")
    assert "XNNPACK doesn't run" not in sentence
    assert (
        "XNNPACK is slower for the same operators: CONV_2D of conv2d_1 takes 243 µs instead of 168 µs"
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
    assert "type conversions (QUANTIZE) take 30 µs, 11 % of its operators' time" in explained(made, "int8")
    made["models"]["cnn"]["operators"]["int8"][0]["us"] = 2.0
    assert "conversions" not in explained(made, "int8")


def test_the_largest_reason_comes_first(made: Results) -> None:
    slowed_int8(made, CONV_2D=1.15)
    sentence = explained(made, "int8")
    assert sentence.index("XNNPACK is slower for the same operators") < sentence.index(
        "more are spent outside its operators"
    )
    slowed_int8(made, MAX_POOL_2D=2.0)
    sentence = explained(made, "int8")
    assert sentence.index("more are spent outside its operators") < sentence.index(
        "MAX_POOL_2D of max_pooling2d takes 16.2 µs"
    )


def test_a_batch_that_closes_the_gap_is_a_reason(made: Results) -> None:
    here = slowed_int8(made)
    assert "overhead of a call" not in explained(made, "int8")
    slow_down(here["batches"]["64"]["timing"], 1 / 1.18)
    assert (
        "the overhead of a call outweighs the work for one image: in batches of 64 it takes only 1.02 times"
        in explained(made, "int8")
    )


def test_where_nothing_explains_it_that_is_said(made: Results) -> None:
    slowed_int8(made)
    made["models"]["cnn"]["operators"]["int8"][0]["us"] += row(made, "float32")["query"]["p50_us"] * 0.19
    made["models"]["cnn"]["operators"]["int8"][0]["name"] = "something that float32 lacks"
    sentence = explained(made, "int8")
    assert sentence.endswith("for an unknown reason: neither its operators nor larger batches explain it.")
    assert "because" not in sentence
    del made["models"]["cnn"]["operators"]["int8"]
    assert explained(made, "int8").endswith("for an unknown reason: its operators weren't timed.")


def test_threads_are_told_only_where_float32_gains_more_by_them(made: Results) -> None:
    row(made, "int16x8, 2 threads")["query"] = {**row(made, "int16x8")["query"]}
    slow_down(row(made, "int16x8, 2 threads")["query"], 0.64)
    assert "threads" not in explained(made, "int16x8")


def test_behind_a_server_the_parts_of_a_request_are_the_reason(made: Results) -> None:
    name = "embedded TFLite, gRPC"
    parts = row(made, name)["parts_us"]
    parts.update(dict.fromkeys(parts, 1.0), network=81.0, inference=13.0)
    assert (
        "because 87 % of a request isn't inference: 81 µs in the network and the server's protocol stack (81 %)."
        in explained(made, name)
    )
    parts.update(network=1.0, inference=400.0)
    assert explained(made, name).endswith("and 98 % of a request is inference.")
    row(made, name)["parts_us"] = None
    assert explained(made, name).endswith("for an unknown reason: the parts of a request weren't timed.")


def test_in_a_browser_webassembly_is_named(made: Results) -> None:
    reference = row(made, "float32")
    slower = {**reference["query"]}
    slow_down(slower, 4.0)
    browser = {**reference, "name": "browser, WASM", "kind": "browser", "query": slower}
    made["models"]["cnn"]["rows"].append(browser)
    assert explained(made, "browser, WASM").endswith(
        " on this machine in WebAssembly instead of native code."
    )
    # It is no choice for this process.
    recommendations = judge(made)["models"]["cnn"]["recommendations"]
    assert all("browser" not in each["sentence"] for each in recommendations)
