"""What is slower than float32 on this machine, and why, as far as the measurements tell.

A cause is only told with the figures that show it, and only where it makes a tenth of the difference or more:

- operators that XNNPACK runs in float32 and not in this format: TFLite's own kernels take their time;
- numbers that change their type, QUANTIZE and DEQUANTIZE;
- operators that XNNPACK runs in both, and that are slower in this one;
- what happens outside the operators: the call, copying tensors;
- a batch of one that is too small: the ratio falls by half or more of what it is above 1 in a batch of 8 or 64.

All but the last are shares of the difference in microseconds; of the last it's the share that vanishes. The largest is
told first. Threads are no cause of what one thread takes, but are told where the format gains less by them.
Behind a server the time goes where the parts of a request say.
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

# A part of the difference that is smaller explains nothing.
_SHARE = 0.1
# In a batch a ratio "closes" if it loses this much of what it is above 1.
_CLOSES = 0.5
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_PARTS = {
    "prepare": "preparing the image",
    "encode": "encoding the request",
    "network": "on the way and in the server's protocol",
    "queue": "in the server's queue",
    "server_decode": "decoding the request",
    "inference": "inference",
    "server_encode": "encoding the answer",
    "decode": "decoding the answer",
}


@dataclass(frozen=True)
class _Cause:
    """What explains a `share` of the difference, 0 to 1 and sometimes more, as a clause."""

    share: float
    clause: str


def slower(model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the TFLite formats (one thread, XNNPACK) and served rows that are slower than the model's reference.

    That is, by more than a tenth in every round of which there are both. Each is `row`, `ratio` and `sentence`.
    """
    rows = {row["name"]: row for row in model["rows"]}
    reference = rows[model["reference"]]
    found = []
    for row in rows.values():
        is_file = row["kind"] == "tflite" and row["name"] == row["format"]
        if row is reference or not (is_file or row["kind"] == "served"):
            continue
        times = ratio(row["query"], reference["query"])
        # Ratios closer to 1 than windows that agree may be say nothing.
        if times is None or times.rounds == 0 or times.low <= TOLERANCE:
            continue
        because = _file(model, rows, row) if is_file else _served(row)
        sentence = f"{row['name']} takes {times.text(model['reference'])} on this machine {because}."
        found.append({"row": row["name"], "ratio": times.value, "sentence": sentence})
    return found


def _file(model: Mapping[str, Any], rows: Mapping[str, Row], row: Row) -> str:
    reference = rows[model["reference"]]
    operators = {name: model["operators"].get(name) for name in (row["format"], reference["format"])}
    mine, its = operators[row["format"]], operators[reference["format"]]
    causes = list(_in_batches(row, reference))
    if mine and its:
        causes += _in_operators(mine, its, row["query"]["p50_us"], reference["query"]["p50_us"])
        unknown = "and neither its operators nor larger batches say why"
    else:
        unknown = "and why isn't known: its operators weren't timed"
    causes = sorted((each for each in causes if each.share >= _SHARE), key=lambda each: -each.share)
    because = f"because {'; '.join(each.clause for each in causes)}" if causes else unknown
    return "; ".join([because, *_with_threads(model, rows, row)])


def _in_operators(mine: Operators, its: Operators, us: float, reference_us: float) -> Iterator[_Cause]:
    before: Counter[tuple[str, str]] = Counter()
    for each in its:
        before[_key(each)] += each["us"]
    by_xnnpack = {_key(each) for each in its if each["delegated"]}
    difference, total = us - reference_us, _us(mine)

    def cause(operators: Operators, clause: str) -> _Cause:
        return _Cause((_us(operators) - there(operators)) / difference, clause)

    def there(operators: Operators) -> float:
        return sum(before[key] for key in {_key(each) for each in operators})

    def part(operators: Operators) -> str:
        return f"{formatting.share(_us(operators) / total)} of its operators' time"

    conversions = [each for each in mine if each["operator"] in _CONVERSIONS]
    others = [each for each in mine if each["operator"] not in _CONVERSIONS]
    left = [
        each
        for each in others
        if not each["delegated"] and (_key(each) in by_xnnpack or _key(each) not in before)
    ]
    if left:
        yield cause(
            left,
            f"XNNPACK doesn't run its {_kinds(left)} ({len(left)} of {len(mine)} operators, {part(left)}): TFLite's "
            f"own kernels take {formatting.microseconds(_us(left))} for what takes XNNPACK "
            f"{formatting.microseconds(there(left))} in float32",
        )
    if conversions:
        delegated = all(each["delegated"] for each in conversions)
        yield cause(
            conversions,
            f"changing its numbers' type ({_kinds(conversions)}{'' if delegated else ', not by XNNPACK'}) takes "
            f"{formatting.microseconds(_us(conversions))}, {part(conversions)}",
        )
    # What takes no time of its own was run as a part of another, and has nothing to be compared with.
    grown = [
        each
        for each in others
        if each["delegated"] and _key(each) in by_xnnpack and each["us"] > TOLERANCE * before[_key(each)] > 0
    ]
    if grown:
        most = sorted(grown, key=lambda each: before[_key(each)] - each["us"])[:2]
        told = [
            f"{each['operator']} of {each['name']} takes {formatting.microseconds(each['us'])} instead of "
            f"{formatting.microseconds(before[_key(each)])}"
            for each in most
        ]
        yield cause(grown, f"XNNPACK is slower at the same operators: {formatting.listed(told)}")
    outside = (us - total) - (reference_us - _us(its))
    yield _Cause(outside / difference, f"{formatting.microseconds(outside)} more go outside its operators")


def _in_batches(row: Row, reference: Row) -> Iterator[_Cause]:
    """Tell whether it's the single image: by the batch in which the ratio is nearest to 1."""
    found = {
        count: ratio(batch["timing"], reference["batches"].get(count, {}).get("timing"))
        for count, batch in row["batches"].items()
    }
    times = {count: each for count, each in found.items() if each is not None}
    if "1" not in times or len(times) < 2:
        return
    one, (count, best) = times.pop("1"), min(times.items(), key=lambda each: each[1].value)
    above = one.value - 1
    # Beyond noise, too: no round of the batch may be as slow as one of the single image.
    if above > 0 and best.value - 1 < _CLOSES * above and best.high < one.low:
        yield _Cause(
            1 - max(best.value - 1, 0) / above,
            f"one image is too little work for what a call of it costs: in batches of {count} it takes only "
            f"{best.value:.2f} times float32's time",
        )


def _with_threads(model: Mapping[str, Any], rows: Mapping[str, Row], row: Row) -> Iterator[str]:
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
                f"with {each['threads']} threads each it is {together.value:.2f} times, as float32 gains more by them"
            )


def _served(row: Row) -> str:
    parts = row["parts_us"]
    total = sum(parts.values()) if parts else 0
    if not total:
        return "and its parts weren't timed"
    inference = parts.get("inference", 0)
    told = [
        f"{formatting.microseconds(us)} {_PARTS.get(name, name)} ({formatting.share(us / total)})"
        for name, us in sorted(parts.items(), key=lambda each: -each[1])
        if name != "inference" and us >= _SHARE * total
    ]
    if not told:
        return f"and {formatting.share(inference / total)} of a request is inference"
    return f"because {formatting.share(1 - inference / total)} of a request isn't inference: {formatting.listed(told)}"


def _key(operator: Mapping[str, Any]) -> tuple[str, str]:
    return operator["operator"], operator["name"]


def _kinds(operators: Operators) -> str:
    return formatting.listed(list(dict.fromkeys(each["operator"] for each in operators)))


def _us(operators: Operators) -> float:
    return float(sum(each["us"] for each in operators))
