"""Rows that are slower than float32 on this machine, with the causes that the measurements show.

A cause is reported with its figures, and only if it explains at least a tenth of the difference:

- operators that XNNPACK runs in float32 but not in this format, where TFLite's built-in kernels run them;
- type conversions (QUANTIZE and DEQUANTIZE);
- operators that XNNPACK runs in both formats, and that are slower in this one;
- time outside the operators, for the call and for copying tensors;
- overhead per call: in batches of 8 or 64, the ratio's excess over 1 falls by half or more.

The share of the last cause is the part of the excess that vanishes in batches; all others are shares of the difference
in microseconds. Largest first. If the format gains less from threads than float32, that is added. For served rows, the
parts of a request are the causes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfship.benchmarks.analysis import formatting
from tfship.benchmarks.analysis.ratios import ratio
from tfship.benchmarks.harness.timer import TOLERANCE

__all__ = ["slower"]

Row = Mapping[str, Any]
Operators = Sequence[Mapping[str, Any]]

# Minimum share of the difference for a cause.
_MIN_SHARE = 0.1
# Overhead per call is a cause if a batch reduces the ratio's excess over 1 to less than this share.
_BATCH_SHARE = 0.5
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_PARTS = {
    "prepare": "preparing the image",
    "encode": "encoding the request",
    "network": "in the network and the server's protocol stack",
    "queue": "in the server's queue",
    "server_decode": "decoding the request",
    "inference": "inference",
    "server_encode": "encoding the response",
    "decode": "decoding the response",
}


@dataclass(frozen=True)
class _Cause:
    """A cause as a clause, and the share of the difference that it explains (usually 0 to 1)."""

    share: float
    clause: str


def slower(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the TFLite formats (one thread, XNNPACK), browser and served rows that are slower than the reference.

    They are slower by more than 10 % in every common round. Each has `row`, `ratio` and `sentence`.
    """
    rows = {row["name"]: row for row in model["rows"]}
    reference = rows[model["reference"]]
    slow_rows = []
    for row in rows.values():
        is_file = row["kind"] == "tflite" and row["name"] == row["format"]
        if row is reference or not (is_file or row["kind"] in ("browser", "served")):
            continue
        times = ratio(row["query"], reference["query"])
        # Ratios within the tolerance of windows aren't significant.
        if times is None or times.rounds == 0 or times.low <= TOLERANCE:
            continue
        if row["kind"] == "browser":
            causes = "in WebAssembly instead of native code"
        else:
            causes = _file_causes(model, rows, row) if is_file else _served_causes(row)
        sentence = f"{row['name']} takes {times.text(model['reference'])} on this machine {causes}."
        slow_rows.append({"row": row["name"], "ratio": times.value, "sentence": sentence})
    return slow_rows


def _file_causes(model: Mapping[str, Any], rows: Mapping[str, Row], row: Row) -> str:
    reference = rows[model["reference"]]
    operators = {name: model["operators"].get(name) for name in (row["format"], reference["format"])}
    own, other = operators[row["format"]], operators[reference["format"]]
    causes = list(_call_overhead(row, reference))
    if own and other:
        causes += _operator_causes(own, other, row["query"]["p50_us"], reference["query"]["p50_us"])
        unknown = "for an unknown reason: neither its operators nor larger batches explain it"
    else:
        unknown = "for an unknown reason: its operators weren't timed"
    causes = sorted((each for each in causes if each.share >= _MIN_SHARE), key=lambda each: -each.share)
    because = f"because {'; '.join(each.clause for each in causes)}" if causes else unknown
    return "; ".join([because, *_thread_remark(model, rows, row)])


def _operator_causes(own: Operators, other: Operators, us: float, reference_us: float) -> Iterator[_Cause]:
    """Yield the causes that the format's operators, `own`, show in comparison with the reference's, `other`."""
    before: Counter[tuple[str, str]] = Counter()
    for each in other:
        before[_key(each)] += each["us"]
    by_xnnpack = {_key(each) for each in other if each["delegated"]}
    difference, total = us - reference_us, _us(own)

    def cause(operators: Operators, clause: str) -> _Cause:
        return _Cause((_us(operators) - in_reference(operators)) / difference, clause)

    def in_reference(operators: Operators) -> float:
        return sum(before[key] for key in {_key(each) for each in operators})

    def part(operators: Operators) -> str:
        return f"{formatting.share(_us(operators) / total)} of its operators' time"

    conversions = [each for each in own if each["operator"] in _CONVERSIONS]
    others = [each for each in own if each["operator"] not in _CONVERSIONS]
    undelegated = [
        each
        for each in others
        if not each["delegated"] and (_key(each) in by_xnnpack or _key(each) not in before)
    ]
    if undelegated:
        yield cause(
            undelegated,
            f"XNNPACK doesn't run its {_kinds(undelegated)} ({len(undelegated)} of {len(own)} operators, "
            f"{part(undelegated)}): TFLite's built-in kernels take {formatting.microseconds(_us(undelegated))}, "
            f"XNNPACK takes {formatting.microseconds(in_reference(undelegated))} for the same operators in float32",
        )
    if conversions:
        delegated = all(each["delegated"] for each in conversions)
        yield cause(
            conversions,
            f"type conversions ({_kinds(conversions)}{'' if delegated else ', not by XNNPACK'}) take "
            f"{formatting.microseconds(_us(conversions))}, {part(conversions)}",
        )
    # An operator with 0 µs runs as a part of another and can't be compared.
    slower_here = [
        each
        for each in others
        if each["delegated"] and _key(each) in by_xnnpack and each["us"] > TOLERANCE * before[_key(each)] > 0
    ]
    if slower_here:
        largest = sorted(slower_here, key=lambda each: before[_key(each)] - each["us"])[:2]
        clauses = [
            f"{each['operator']} of {each['name']} takes {formatting.microseconds(each['us'])} instead of "
            f"{formatting.microseconds(before[_key(each)])}"
            for each in largest
        ]
        yield cause(slower_here, f"XNNPACK is slower for the same operators: {formatting.listed(clauses)}")
    outside = (us - total) - (reference_us - _us(other))
    yield _Cause(
        outside / difference, f"{formatting.microseconds(outside)} more are spent outside its operators"
    )


def _call_overhead(row: Row, reference: Row) -> Iterator[_Cause]:
    """Yield the overhead per call as a cause if a batch of some size reduces the ratio enough."""
    found = {
        count: ratio(batch["timing"], reference["batches"].get(count, {}).get("timing"))
        for count, batch in row["batches"].items()
    }
    times = {count: each for count, each in found.items() if each is not None}
    if "1" not in times or len(times) < 2:
        return
    one, (count, best) = times.pop("1"), min(times.items(), key=lambda each: each[1].value)
    excess = one.value - 1
    # Significant only if every round of the batch has a lower ratio than all rounds of the single image.
    if excess > 0 and best.value - 1 < _BATCH_SHARE * excess and best.high < one.low:
        yield _Cause(
            1 - max(best.value - 1, 0) / excess,
            f"the overhead of a call outweighs the work for one image: in batches of {count} it takes only "
            f"{best.value:.2f} times float32's time",
        )


def _thread_remark(model: Mapping[str, Any], rows: Mapping[str, Row], row: Row) -> Iterator[str]:
    """Yield the ratio with more threads if float32 gains more from them."""
    alone = ratio(row["query"], rows[model["reference"]]["query"])
    for each in rows.values():
        if (each["kind"], each["format"], each["delegate"]) != (row["kind"], row["format"], row["delegate"]):
            continue
        name = each["name"].replace(row["name"], model["reference"], 1)
        together = ratio(each["query"], rows[name]["query"]) if name in rows else None
        if each is row or alone is None or together is None or each["threads"] == row["threads"]:
            continue
        if together.value > TOLERANCE * alone.value and together.low > alone.high:
            yield (
                f"with {each['threads']} threads for both the ratio is {together.value:.2f}, as float32 gains more "
                "from threads"
            )


def _served_causes(row: Row) -> str:
    parts = row["parts_us"]
    total = sum(parts.values()) if parts else 0
    if not total:
        return "for an unknown reason: the parts of a request weren't timed"
    inference = parts.get("inference", 0)
    clauses = [
        f"{formatting.microseconds(us)} {_PARTS.get(name, name)} ({formatting.share(us / total)})"
        for name, us in sorted(parts.items(), key=lambda each: -each[1])
        if name != "inference" and us >= _MIN_SHARE * total
    ]
    if not clauses:
        return f"and {formatting.share(inference / total)} of a request is inference"
    share = formatting.share(1 - inference / total)
    return f"because {share} of a request isn't inference: {formatting.listed(clauses)}"


def _key(operator: Mapping[str, Any]) -> tuple[str, str]:
    return operator["operator"], operator["name"]


def _kinds(operators: Operators) -> str:
    return formatting.listed(list(dict.fromkeys(each["operator"] for each in operators)))


def _us(operators: Operators) -> float:
    return float(sum(each["us"] for each in operators))
