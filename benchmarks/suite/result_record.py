"""A model's part of the result file: the results of all stages, by row."""

from typing import Any

from tfship.benchmarks.analysis import correctness
from tfship.benchmarks.harness.mlperf_loadgen import IMAGES_PER_QUERY
from tfship.benchmarks.harness.timer import FLOORS, Timing
from tfship.benchmarks.suite import accuracy, format_stages, latency_stages, load_stages, mlperf_stage
from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.export.conversion.formats import REFERENCE

__all__ = ["measure"]


def measure(bench: Bench, absent: dict[str, str]) -> dict[str, Any]:
    """Run every stage and return the model's part of the result file. `absent` has missing rows with the reason.

    Raises TargetError if a server dies, ResultError for invalid responses.
    """
    with bench.opened() as targets:
        first = latency_stages.first(bench, targets)
        probabilities = accuracy.probabilities(bench, targets)
        query = latency_stages.query(bench, targets)
        batches = {1: query, **latency_stages.batches(bench, targets)}
        end_to_end = latency_stages.end_to_end(bench, targets)
    classes = {name: each.argmax(1) for name, each in probabilities.items()}
    parts = latency_stages.parts_of_requests(bench)
    offline = load_stages.offline(bench, classes)
    sweep = load_stages.sweep(bench, classes)
    server = load_stages.server(bench, classes)
    loadgen = mlperf_stage.run(bench, server) if bench.options.loadgen else {}
    peaks = bench.each("peak", lambda row: bench.servers[row.server or ""].peak())
    probes = format_stages.probes(bench)
    artefacts = {each["format"]: each for each in bench.card.artefacts}
    reference, truth = probabilities[REFERENCE], bench.images.truth

    def row(subject: Subject) -> dict[str, Any]:
        name, probed = subject.name, probes.get(subject.name, {})
        images = len(probabilities[name])
        running = bench.servers.get(subject.server or "")
        micro = artefacts.get(subject.format, {}).get("micro", {}) if subject.kind == "tflite" else {}
        found = {
            **subject.describe(),
            "arena_bytes": micro.get("arena_bytes"),
            **correctness.describe(probabilities[name], reference[:images], truth[:images]),
            "load_ms": round(running.ready_ms, 1) if running else probed.get("load_ms"),
            "first_ms": first[name] if running else probed.get("first_ms"),
            "peak_bytes": peaks[name] if running else probed.get("peak_bytes"),
            "cpu_seconds_per_1000": None
            if subject.kind == "browser"
            else {
                "here": round(query[name].cpu() * 1e3, 5),
                "server": round(query[name].cpu(server=True) * 1e3, 5) if running else None,
            },
            "query": query[name].describe(),
            "end_to_end": end_to_end[name].describe() if name in end_to_end else None,
            "batches": {
                str(size): {"rate": _rate(each[name], size), "timing": each[name].describe()}
                for size, each in batches.items()
                if name in each
            },
            "scenarios": {
                "single_stream": _percentile(query[name], "90"),
                "multi_stream": _multi_stream(batches[IMAGES_PER_QUERY].get(name)),
                "server": server.get(name),
                "offline": offline.get(name),
            },
            "sweep": sweep.get(name),
            "parts_us": parts.get(name),
            "loadgen": loadgen.get(name),
        }
        return {**found, "empty": _empty(subject, found)}

    return {
        "version": int(bench.version.name),
        "keras_sha256": bench.card.keras_sha256,
        "labels": list(bench.contract.labels),
        "images": len(bench.images.pixels),
        "reference": REFERENCE,
        "rows": [row(each) for each in bench.rows],
        "absent": absent,
        "operators": format_stages.times(bench),
        "layers": format_stages.noise(bench),
        "changed": {
            each.name: correctness.changed(probabilities[each.name], reference, bench.images)
            for each in bench.rows
            if each.is_format and each.name != REFERENCE
        },
    }


def _rate(timing: Timing, images: int) -> float:
    """Return images per second in a closed loop with one caller."""
    samples = timing.samples
    return round(float(images * len(samples) / samples.sum()), 1)


def _percentile(timing: Timing, which: str) -> dict[str, Any] | None:
    value = timing.percentile(which)
    if value is None:
        return None
    return {f"p{which}_us": round(value * 1e6, 2), "queries": len(timing.samples)}


def _multi_stream(timing: Timing | None) -> dict[str, Any] | None:
    found = _percentile(timing, "99") if timing else None
    return found and {**found, "images_per_query": IMAGES_PER_QUERY}


def _empty(subject: Subject, found: dict[str, Any]) -> dict[str, str]:
    """Return the reasons for the missing figures of a row."""
    reasons = {}
    if subject.kind == "browser":
        alone = "the model alone was measured in the browser"
        names = (
            "load_ms",
            "first_ms",
            "peak_bytes",
            "cpu_seconds_per_1000",
            "end_to_end",
            "offline",
            "batches",
        )
        reasons = dict.fromkeys([*names, "multi_stream"], alone)
    elif not subject.plain:
        reasons["end_to_end"] = "differs in the model alone: see the row with one thread and XNNPACK"
        reasons["offline"] = "with all cores: see the row with one thread and XNNPACK"
    if subject.kind != "tflite" or subject.format == REFERENCE:
        reasons["arena_bytes"] = "TensorFlow Lite Micro runs integer formats"
    elif found["arena_bytes"] is None:
        reasons["arena_bytes"] = "not entirely integer, or tflite-micro was missing during the export"
    if subject.server is None:
        for name in ("sweep", "parts_us"):
            reasons[name] = "not served"
    elif found["parts_us"] is None:
        reasons["parts_us"] = "this server doesn't report its timings"
    scenarios = found["scenarios"]
    if scenarios["server"] is None:
        reasons["server"] = "measured for served rows and the reference"
    elif scenarios["server"]["rate"] is None:
        reasons["server"] = "none of the tried rates kept the bound"
    if scenarios["multi_stream"] is None:
        few = f"needs {FLOORS['99']} queries of {IMAGES_PER_QUERY} images; this mode has fewer"
        reasons.setdefault("multi_stream", few)
    if scenarios["single_stream"] is None:
        reasons["single_stream"] = f"needs {FLOORS['90']} queries; this mode has fewer"
    if found["peak_bytes"] is None:
        reasons.setdefault("peak_bytes", "this system has no /proc")
    if found["loadgen"] is None:
        reasons["loadgen"] = "run with --loadgen"
    return reasons
