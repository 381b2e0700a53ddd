"""A result file that nobody measured: made up, for tests of what reads results.

`results()` is complete by `benchmarks/report/results.schema.json` and the same at every call. Its figures have the
size that real ones have, and what belongs together agrees: a format's operators add up to its inference, images
changed are as many as its disagreements say, times of a round share that round's drift. Nothing in it says how fast
anything is.
"""

import base64
import functools
import pickle
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

import results_parts as parts
from results_parts import MODELS
from tfship.export.conversion.formats import FORMATS, REFERENCE
from tfship.train.common import statistics

__all__ = ["MODELS", "packed", "results"]


def results() -> dict[str, Any]:
    """Return the contents of a result file of schema 2, both models, every kind of row."""
    found: dict[str, Any] = pickle.loads(_made())  # faster than `copy.deepcopy`
    return found


@functools.cache
def _made() -> bytes:
    generator = np.random.default_rng(20_261_124)
    made = {
        "schema": 3,
        "created": "2026-11-24T10:59:01+00:00",
        "resumed": ["2026-11-24T10:31:40+00:00"],
        "mode": "default",
        "environment": {
            "cpu": "AMD EPYC",
            "cores": 2,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "packages": {"tensorflow": "2.21.0", "ai-edge-litert": "2.3.0", "numpy": "2.4.6"},
        },
        "threads": list(parts.THREADS),
        "bound_ms": parts.BOUND_MS,
        "quantiles": list(parts.QUANTILES),
        "data": {"label": "MNIST", "sha256": parts.sha256("data"), "train": 60_000, "test": parts.IMAGES},
        "models": {name: _Model(name, generator).describe() for name in MODELS},
    }
    return pickle.dumps(made)


def packed(right: NDArray[np.bool_]) -> str:
    """Return which images are right, bool [N], as a row's `right` holds it."""
    return base64.b64encode(zlib.compress(np.packbits(right).tobytes())).decode()


class _Model:
    """One model's rows, in the making: the truth, the reference's guesses, the drift of each clock's rounds."""

    def __init__(self, name: str, generator: np.random.Generator) -> None:
        self._name, self._generator = name, generator
        self._truth = generator.integers(0, parts.CLASSES, parts.IMAGES)
        self._reference = self._truth.copy()
        wrong = generator.permutation(parts.IMAGES)[: parts.IMAGES - parts.CORRECT[name]]
        self._reference[wrong] = (
            self._truth[wrong] + generator.integers(1, parts.CLASSES, len(wrong))
        ) % parts.CLASSES
        # The machine is slower or faster from one round to the next, for all rows alike.
        self._drift = {
            clock: 1 + 0.02 * generator.standard_normal(parts.ROUNDS) for clock in ("query", "end")
        }
        self._changed: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        rows = [self._tflite(row, threads, xnnpack) for row, threads, xnnpack in parts.ways()]
        rows += [self._tensorflow("savedmodel"), self._tensorflow("keras")]
        rows += [self._served(*served) for served in parts.SERVED]
        return {
            "version": 1,
            "keras_sha256": parts.sha256(f"{self._name} weights"),
            "labels": [str(label) for label in range(parts.CLASSES)],
            "images": parts.IMAGES,
            "reference": REFERENCE,
            "rows": rows,
            "absent": {"tensorflow/serving": "docker isn't installed"},
            "operators": {name: self._operators(name) for name in FORMATS},
            "layers": {
                name: [
                    {"name": layer, "operator": operator, "snr_db": self._snr(name)}
                    for operator, layer, *_ in parts.LAYERS[self._name]
                ]
                for name in FORMATS
                if FORMATS[name].calibrated or name == "dynamic"
            },
            "changed": self._changed,
        }

    def _tflite(self, name: str, threads: int, xnnpack: bool) -> dict[str, Any]:
        bytes_, arena, losses, wins, others = parts.FILES[self._name][name]
        us = parts.CALL_US + sum(each["us"] for each in self._operators(name))
        if name != "int16x8":  # whose operators TFLite's own kernels run in any case
            us *= (parts.TWO_THREADS[self._name] if threads > 1 else 1) * (
                1 if xnnpack else parts.NO_XNNPACK[self._name]
            )
        suffix = (", 2 threads" if threads > 1 else "") + ("" if xnnpack else ", no XNNPACK")
        row = self._in_process(f"{name}{suffix}", "tflite", name, threads, us)
        row |= {
            "delegate": "XNNPACK" if xnnpack else None,
            "bytes": bytes_,
            "sha256": parts.sha256(f"{self._name} {name}"),
            "arena_bytes": arena,
            "load_ms": round(0.4 + bytes_ / 1e6, 2),
            "first_ms": round(us / 500, 3),
            "peak_bytes": 58_000_000 + 2 * bytes_,
        }
        row |= self._accuracy(name, losses, wins, others, shown=not suffix and name != REFERENCE)
        if name in (REFERENCE, "int8") and not suffix:
            row["loadgen"] = {"single_stream": self._loadgen(row["scenarios"]["single_stream"]["p90_us"])}
        return row

    def _tensorflow(self, kind: str) -> dict[str, Any]:
        """A row that TensorFlow runs in this process: its cost of a call, and float32's work."""
        call, size, load = {
            "savedmodel": (40.0, parts.SAVED_MODEL, 880.0),
            "keras": (1_900.0, parts.KERAS, 240.0),
        }[kind]
        us = call + sum(each["us"] for each in self._operators(REFERENCE))
        row = self._in_process(kind, kind, kind, 1 if kind == "savedmodel" else None, us)
        row |= {
            "bytes": size[self._name],
            "sha256": parts.sha256(f"{self._name} {kind}"),
            "load_ms": load,
            "first_ms": 3.4,
            "peak_bytes": 612_000_000 + 3 * size[self._name],
        }
        return row | self._accuracy(kind, 0, 0, 0, shown=True)

    def _in_process(
        self, name: str, kind: str, format_: str, threads: int | None, us: float
    ) -> dict[str, Any]:
        at_8, at_64 = parts.IN_BATCHES[self._name]
        batches = {
            str(count): self._batch(count, us * count * share)
            for count, share in ((1, 1.0), (8, at_8), (64, at_64))
        }
        empty = {"server": "rows that are served only", "sweep": "rows that are served only"}
        offline = None
        if threads == 1:
            empty["offline"] = "takes all cores: see the row with 2 threads"
        else:
            offline = parts.offline(batches["64"]["rate"])
        return {
            **parts.row(name, kind, format_, threads),
            "cpu_seconds_per_1000": {"here": round(us / 1e3, 5), "server": None},
            "query": self._timing(us, "query"),
            "end_to_end": self._timing(us + parts.DRAWN_US, "end"),
            "batches": batches,
            "scenarios": {**self._streams(us, us * 8 * at_8), "server": None, "offline": offline},
            "empty": empty,
        }

    def _served(
        self, server: str, protocol: str, format_: str, figures: dict[str, tuple[float, int]]
    ) -> dict[str, Any]:
        us, most = figures[self._name]
        inference = parts.CALL_US + sum(each["us"] for each in self._operators(REFERENCE))
        rest = us - inference
        sizes = {
            "float32": parts.FILES[self._name]["float32"][0],
            "savedmodel": parts.SAVED_MODEL[self._name],
        }
        return {
            **parts.row(f"{server}, {protocol}", "served", format_, 1),
            "server": server,
            "protocol": protocol,
            "bytes": sizes[format_],
            "sha256": parts.sha256(f"{self._name} {format_}"),
            "load_ms": 1_150.0 if format_ == "float32" else 3_900.0,
            "first_ms": 4.1,
            "peak_bytes": 310_000_000 if format_ == "float32" else 1_450_000_000,
            "cpu_seconds_per_1000": {"here": round(rest * 4e-4, 4), "server": round(us * 7e-4, 4)},
            **self._accuracy(format_, 0, 0, 0, shown=False),
            "query": self._timing(us, "query", samples=1_000),
            "end_to_end": self._timing(us + parts.DRAWN_US, "end", samples=800),
            "batches": {
                str(count): self._batch(count, rest * (1 + 0.1 * (count - 1)) + inference * count, samples=400)
                for count in (1, 8, 64)
            },
            "scenarios": {
                **self._streams(us, us * 2.2),
                "server": self._under_load(most, us),
                "offline": parts.offline(most * 1.9),
            },
            "sweep": [
                {
                    "connections": connections,
                    "rate": round(most * share, 1),
                    "p50_ms": round(connections / most / share * 1e3, 3),
                    "p99_ms": round(connections / most / share * 1.8e3, 3),
                }
                for connections, share in parts.CONNECTIONS
            ],
            "parts_us": {
                "prepare": 6.0,
                "encode": round(rest * 0.14, 1),
                "network": round(rest * 0.46, 1),
                "queue": round(rest * 0.1, 1),
                "server_decode": round(rest * 0.16, 1),
                "inference": round(inference, 1),
                "server_encode": round(rest * 0.06, 1),
                "decode": round(rest * 0.08, 1),
            },
        }  # fmt: skip

    def _operators(self, name: str) -> list[dict[str, Any]]:
        row = FORMATS[name]
        column = 2 if row.activations == "float32" and name != "dynamic" else 4 if name == "int16x8" else 3
        xnnpack = name != "int16x8"
        found: list[dict[str, Any]] = [
            {"operator": layer[0], "name": layer[1], "us": layer[column], "delegated": xnnpack}
            for layer in parts.LAYERS[self._name]
        ]
        if row.calibrated:
            into, out = parts.EDGE_US[self._name]
            begin = {"operator": "QUANTIZE", "name": "image", "us": into, "delegated": xnnpack}
            end = {"operator": "DEQUANTIZE", "name": "probabilities", "us": out, "delegated": xnnpack}
            found = [
                *([begin] if row.edge == "float32" else []),
                *found,
                *([end] if row.edge == "float32" else []),
            ]
        return found

    def _timing(self, us: float, clock: str, samples: int = parts.WINDOW) -> dict[str, Any]:
        noise = 1 + 0.004 * self._generator.standard_normal(parts.ROUNDS)
        spread = self._generator.lognormal(0, 0.05, (parts.ROUNDS, samples))
        slow = 1 + (self._generator.random((parts.ROUNDS, samples)) < 0.02) * self._generator.exponential(
            0.4, (parts.ROUNDS, samples)
        )
        drawn = us * (self._drift[clock] * noise)[:, np.newaxis] * spread * slow
        pooled = drawn.ravel()
        enough = {name: len(pooled) >= floor for name, (_, floor) in parts.FLOORS.items()}
        return {
            **{
                f"{name}_us": round(float(np.percentile(pooled, which)), 2) if enough[name] else None
                for name, (which, _) in parts.FLOORS.items()
            },
            "missing": {
                name: f"needs {floor:,} samples for 99 % confidence"
                for name, (_, floor) in parts.FLOORS.items()
                if not enough[name]
            },
            "samples": len(pooled),
            "stable": True,
            "windows_p50_us": [round(float(each), 2) for each in np.median(drawn, axis=1)],
            "undisturbed_p50_us": None,
            "windows_undisturbed_p50_us": [None] * parts.ROUNDS,
            "quantiles_us": [round(float(each), 2) for each in np.quantile(pooled, parts.QUANTILES)],
        }  # fmt: skip

    def _batch(self, count: int, us: float, samples: int = 500) -> dict[str, Any]:
        timing = self._timing(us, "query", samples)
        return {"rate": round(count / timing["p50_us"] * 1e6, 1), "timing": timing}

    def _streams(self, us: float, us_of_eight: float) -> dict[str, Any]:
        return {
            "single_stream": {"p90_us": round(us * 1.07, 2), "queries": 3_000},
            "multi_stream": {"p99_us": round(us_of_eight * 1.3, 2), "images_per_query": 8, "queries": 900},
        }

    def _under_load(self, most: int, us: float) -> dict[str, Any]:
        """The Server scenario: up to the bound, one rate beyond it, one between."""
        trials = [
            {
                "rate": round(most * share, 1),
                "p50_ms": round(us / 1e3 * (1 + share), 3),
                "p99_ms": round(p99, 2),
                "p99.9_ms": round(p99 * 1.6, 2),
                "queries": int(most * share * 3),
                "kept": p99 <= parts.BOUND_MS,
            }
            for share, p99 in ((0.25, 2.1), (0.5, 3.4), (0.75, 6.2), (1.0, 48.0), (0.85, 9.1))
        ]
        kept = trials[-1]
        return {"rate": kept["rate"], "p99_ms": kept["p99_ms"], "queries": kept["queries"], "trials": trials}

    def _loadgen(self, ours: float) -> dict[str, Any]:
        theirs = round(ours * 1.012, 2)
        return {
            "ours": ours,
            "loadgen": theirs,
            "ratio": round(ours / theirs, 4),
            "valid": True,
            "summary": "MLPerf Results Summary\nSUT name : tfship\nScenario : SingleStream\nResult is : VALID\n",
        }

    def _accuracy(self, name: str, losses: int, wins: int, others: int, *, shown: bool) -> dict[str, Any]:
        """Accuracy, what changed and which images are right, of a format that changes so many."""
        right = self._reference == self._truth
        (ok,), (wrong,) = np.nonzero(right), np.nonzero(~right)
        # Evenly over the images, and in every row of a format the same.
        lost, won = ok[:: len(ok) // (losses + 1)][:losses], wrong[:: len(wrong) // (wins + 1)][:wins]
        other = np.setdiff1d(wrong, won)[:others]
        guesses = self._reference.copy()
        guesses[lost] = (self._truth[lost] + 1) % parts.CLASSES
        guesses[won] = self._truth[won]
        for image in other:
            neither = {int(self._truth[image]), int(self._reference[image])}
            guesses[image] = next(each for each in range(parts.CLASSES) if each not in neither)
        if shown:
            self._changed[name] = self._pictures(guesses)
        return {
            "accuracy": statistics.accuracy(guesses, self._truth),
            "calibration_error": {"value": round(0.004 + 0.0002 * (losses + wins), 4), "bins": 15},
            "against_float32": statistics.paired(guesses, self._reference, self._truth),
            "right": packed(guesses == self._truth),
        }

    def _pictures(self, guesses: NDArray[np.int64]) -> dict[str, Any]:
        (changed,) = np.nonzero(guesses != self._reference)
        shown = [
            {
                "image": int(image),
                "png": parts.png(int(image)),
                "label": int(self._truth[image]),
                "reference": {"class": int(self._reference[image]), "probability": 0.52},
                "here": {"class": int(guesses[image]), "probability": round(0.5 + margin / 2, 3)},
                "margin": margin,
            }
            for image, margin in zip(
                changed, np.linspace(0.21, 0.02, len(changed)).round(3).tolist(), strict=True
            )
        ]
        return {"count": len(changed), "shown": shown}

    def _snr(self, name: str) -> float | None:
        if name == "int16x8":
            return round(float(self._generator.uniform(70, 85)), 1)
        return round(float(self._generator.uniform(28, 41)), 1)
