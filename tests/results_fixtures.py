"""A result file that nobody measured: made up, for tests of what reads results.

`results()` is complete by `benchmarks/report/results.schema.json` and the same at every call. Its figures have the
size that real ones have, and what belongs together agrees: a format's operators add up to its inference, images
changed are as many as its disagreements say, times of a round share that round's drift. Nothing in it says how fast
anything is.
"""

import base64
import binascii
import copy
import functools
import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tfship.export.conversion.formats import FORMATS, REFERENCE
from tfship.train.common import statistics

__all__ = ["MODELS", "packed", "results"]

MODELS = ("nn", "cnn")
_IMAGES, _CLASSES = 10_000, 10
_ROUNDS, _WINDOW = 3, 2_500
_THREADS = (1, 2)
_BOUND_MS = 10.0
_QUANTILES = (
    0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0,
)  # fmt: skip
# Samples that each percentile needs.
_FLOORS = {"p50": (50, 11), "p90": (90, 64), "p99": (99, 662), "p99.9": (99.9, 6_636)}

# By model and format: size in bytes, the arena's, images of the reference's that are now wrong, and those that are
# now right, and those that are wrong either way, but otherwise.
_FILES: dict[str, dict[str, tuple[int, int | None, int, int, int]]] = {
    "nn": {
        "float32": (368_492, None, 0, 0, 0),
        "dynamic": (100_160, None, 0, 1, 0),
        "float16": (187_604, None, 0, 0, 0),
        "int8": (102_312, 6_420, 4, 3, 0),
        "int8_uint8": (102_320, 6_420, 4, 3, 0),
        "int16x8": (104_456, None, 2, 1, 0),
        "selective": (102_200, None, 4, 3, 0),
    },
    "cnn": {
        "float32": (2_182_076, None, 0, 0, 0),
        "dynamic": (552_632, None, 0, 0, 0),
        "float16": (1_094_284, None, 0, 0, 0),
        "int8": (555_640, 61_764, 1, 0, 1),
        "int8_uint8": (555_656, 61_764, 1, 0, 1),
        "int16x8": (557_784, None, 0, 0, 0),
        "selective": (555_624, None, 1, 0, 1),
    },
}  # fmt: skip
_SAVED_MODEL = {"nn": 653_399, "cnn": 2_423_774}
_KERAS = {"nn": 1_131_040, "cnn": 6_560_112}
_CORRECT = {"nn": 9_802, "cnn": 9_939}

# By model: the layers as (operator, name, microseconds in float32, in int8, in int16 by TFLite's own kernels).
_LAYERS = {
    "nn": (
        ("RESHAPE", "flatten", 0.2, 0.1, 0.2),
        ("FULLY_CONNECTED", "dense", 7.6, 2.2, 10.2),
        ("FULLY_CONNECTED", "dense_1", 1.2, 0.5, 1.4),
        ("FULLY_CONNECTED", "dense_2", 0.7, 0.4, 0.8),
        ("FULLY_CONNECTED", "dense_3", 0.3, 0.2, 0.4),
        ("SOFTMAX", "dense_3", 0.6, 0.5, 0.6),
    ),
    "cnn": (
        ("CONV_2D", "conv2d", 18.5, 8.9, 41.0),
        ("CONV_2D", "conv2d_1", 168.0, 41.5, 243.0),
        ("MAX_POOL_2D", "max_pooling2d", 8.1, 2.7, 6.0),
        ("RESHAPE", "flatten", 0.4, 0.1, 0.3),
        ("FULLY_CONNECTED", "dense", 44.0, 18.6, 52.0),
        ("FULLY_CONNECTED", "dense_1", 0.9, 0.4, 1.1),
        ("SOFTMAX", "dense_1", 0.8, 0.5, 0.8),
    ),
}
# By model, what the numbers' change of type costs where an integer file begins and ends.
_EDGE_US = {"nn": (0.4, 0.2), "cnn": (0.5, 0.2)}
_CALL_US = 0.6
_DRAWN_US = 113.0  # from a picture's bytes to a prepared image

# By model: how many times as long it takes with two threads, and without XNNPACK.
_TWO_THREADS = {"nn": 1.3, "cnn": 0.64}
_NO_XNNPACK = {"nn": 1.4, "cnn": 1.9}
# By model: the time of an image in a batch of 8 and of 64, as a share of that of one alone.
_IN_BATCHES = {"nn": (0.42, 0.3), "cnn": (0.88, 0.84)}

# Server, protocol, format, and by model microseconds of a request and requests per second at most.
_SERVED: tuple[tuple[str, str, str, dict[str, tuple[float, int]]], ...] = (
    ("embedded TFLite", "REST JSON", "float32", {"nn": (820, 4_900), "cnn": (1_060, 3_000)}),
    ("embedded TFLite", "gRPC", "float32", {"nn": (470, 6_100), "cnn": (700, 3_700)}),
    ("embedded SavedModel", "REST JSON", "savedmodel", {"nn": (1_150, 2_400), "cnn": (1_480, 1_900)}),
    ("embedded SavedModel", "REST base64", "savedmodel", {"nn": (1_020, 2_600), "cnn": (1_340, 2_000)}),
    ("embedded SavedModel", "gRPC", "savedmodel", {"nn": (760, 3_100), "cnn": (1_090, 2_300)}),
)  # fmt: skip
_CONNECTIONS = ((1, 0.45), (8, 0.9), (32, 1.0), (128, 0.97))


def results() -> dict[str, Any]:
    """Return the contents of a result file of schema 2, both models, every kind of row."""
    return copy.deepcopy(_made())


@functools.cache
def _made() -> dict[str, Any]:
    generator = np.random.default_rng(20_261_124)
    return {
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
        "threads": list(_THREADS),
        "bound_ms": _BOUND_MS,
        "quantiles": list(_QUANTILES),
        "data": {"label": "MNIST", "sha256": _sha256("data"), "train": 60_000, "test": _IMAGES},
        "models": {name: _Model(name, generator).describe() for name in MODELS},
    }


def packed(right: NDArray[np.bool_]) -> str:
    """Return which images are right, bool [N], as a row's `right` holds it."""
    return base64.b64encode(zlib.compress(np.packbits(right).tobytes())).decode()


class _Model:
    """One model's rows, in the making: the truth, the reference's guesses, the drift of each clock's rounds."""

    def __init__(self, name: str, generator: np.random.Generator) -> None:
        self._name, self._generator = name, generator
        self._truth = generator.integers(0, _CLASSES, _IMAGES)
        self._reference = self._truth.copy()
        wrong = generator.permutation(_IMAGES)[: _IMAGES - _CORRECT[name]]
        self._reference[wrong] = (self._truth[wrong] + generator.integers(1, _CLASSES, len(wrong))) % _CLASSES
        # The machine is slower or faster from one round to the next, for all rows alike.
        self._drift = {clock: 1 + 0.02 * generator.standard_normal(_ROUNDS) for clock in ("query", "end")}
        self._changed: dict[str, Any] = {}

    def describe(self) -> dict[str, Any]:
        rows = [self._tflite(row, threads, xnnpack) for row, threads, xnnpack in _ways()]
        rows += [self._tensorflow("savedmodel"), self._tensorflow("keras")]
        rows += [self._served(*served) for served in _SERVED]
        return {
            "version": 1,
            "keras_sha256": _sha256(f"{self._name} weights"),
            "labels": [str(label) for label in range(_CLASSES)],
            "images": _IMAGES,
            "reference": REFERENCE,
            "rows": rows,
            "absent": {"tensorflow/serving": "no Docker here"},
            "operators": {name: self._operators(name) for name in FORMATS},
            "layers": {
                name: [
                    {"name": layer, "operator": operator, "snr_db": self._snr(name)}
                    for operator, layer, *_ in _LAYERS[self._name]
                ]
                for name in FORMATS
                if FORMATS[name].calibrated or name == "dynamic"
            },
            "changed": self._changed,
        }

    def _tflite(self, name: str, threads: int, xnnpack: bool) -> dict[str, Any]:
        bytes_, arena, losses, wins, others = _FILES[self._name][name]
        us = _CALL_US + sum(each["us"] for each in self._operators(name))
        if name != "int16x8":  # whose operators TFLite's own kernels run in any case
            us *= (_TWO_THREADS[self._name] if threads > 1 else 1) * (
                1 if xnnpack else _NO_XNNPACK[self._name]
            )
        suffix = (", 2 threads" if threads > 1 else "") + ("" if xnnpack else ", no XNNPACK")
        row = self._in_process(f"{name}{suffix}", "tflite", name, threads, us)
        row |= {
            "delegate": "XNNPACK" if xnnpack else None,
            "bytes": bytes_,
            "sha256": _sha256(f"{self._name} {name}"),
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
            "savedmodel": (40.0, _SAVED_MODEL, 880.0),
            "keras": (1_900.0, _KERAS, 240.0),
        }[kind]
        us = call + sum(each["us"] for each in self._operators(REFERENCE))
        row = self._in_process(kind, kind, kind, 1 if kind == "savedmodel" else None, us)
        row |= {
            "bytes": size[self._name],
            "sha256": _sha256(f"{self._name} {kind}"),
            "load_ms": load,
            "first_ms": 3.4,
            "peak_bytes": 612_000_000 + 3 * size[self._name],
        }
        return row | self._accuracy(kind, 0, 0, 0, shown=True)

    def _in_process(
        self, name: str, kind: str, format_: str, threads: int | None, us: float
    ) -> dict[str, Any]:
        at_8, at_64 = _IN_BATCHES[self._name]
        batches = {
            str(count): self._batch(count, us * count * share)
            for count, share in ((1, 1.0), (8, at_8), (64, at_64))
        }
        empty = {"server": "rows that are served only", "sweep": "rows that are served only"}
        offline = None
        if threads == 1:
            empty["offline"] = "takes all cores: see the row with 2 threads"
        else:
            offline = _offline(batches["64"]["rate"])
        return {
            **_row(name, kind, format_, threads),
            "cpu_seconds_per_1000": {"here": round(us / 1e3, 5), "server": None},
            "query": self._timing(us, "query"),
            "end_to_end": self._timing(us + _DRAWN_US, "end"),
            "batches": batches,
            "scenarios": {**self._streams(us, us * 8 * at_8), "server": None, "offline": offline},
            "empty": empty,
        }

    def _served(
        self, server: str, protocol: str, format_: str, figures: dict[str, tuple[float, int]]
    ) -> dict[str, Any]:
        us, most = figures[self._name]
        inference = _CALL_US + sum(each["us"] for each in self._operators(REFERENCE))
        rest = us - inference
        sizes = {"float32": _FILES[self._name]["float32"][0], "savedmodel": _SAVED_MODEL[self._name]}
        return {
            **_row(f"{server}, {protocol}", "served", format_, 1),
            "server": server,
            "protocol": protocol,
            "bytes": sizes[format_],
            "sha256": _sha256(f"{self._name} {format_}"),
            "load_ms": 1_150.0 if format_ == "float32" else 3_900.0,
            "first_ms": 4.1,
            "peak_bytes": 310_000_000 if format_ == "float32" else 1_450_000_000,
            "cpu_seconds_per_1000": {"here": round(rest * 4e-4, 4), "server": round(us * 7e-4, 4)},
            **self._accuracy(format_, 0, 0, 0, shown=False),
            "query": self._timing(us, "query", samples=1_000),
            "end_to_end": self._timing(us + _DRAWN_US, "end", samples=800),
            "batches": {
                str(count): self._batch(count, rest * (1 + 0.1 * (count - 1)) + inference * count, samples=400)
                for count in (1, 8, 64)
            },
            "scenarios": {
                **self._streams(us, us * 2.2),
                "server": self._under_load(most, us),
                "offline": _offline(most * 1.9),
            },
            "sweep": [
                {
                    "connections": connections,
                    "rate": round(most * share, 1),
                    "p50_ms": round(connections / most / share * 1e3, 3),
                    "p99_ms": round(connections / most / share * 1.8e3, 3),
                }
                for connections, share in _CONNECTIONS
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
            for layer in _LAYERS[self._name]
        ]
        if row.calibrated:
            into, out = _EDGE_US[self._name]
            begin = {"operator": "QUANTIZE", "name": "image", "us": into, "delegated": xnnpack}
            end = {"operator": "DEQUANTIZE", "name": "probabilities", "us": out, "delegated": xnnpack}
            found = [
                *([begin] if row.edge == "float32" else []),
                *found,
                *([end] if row.edge == "float32" else []),
            ]
        return found

    def _timing(self, us: float, clock: str, samples: int = _WINDOW) -> dict[str, Any]:
        noise = 1 + 0.004 * self._generator.standard_normal(_ROUNDS)
        spread = self._generator.lognormal(0, 0.05, (_ROUNDS, samples))
        slow = 1 + (self._generator.random((_ROUNDS, samples)) < 0.02) * self._generator.exponential(
            0.4, (_ROUNDS, samples)
        )
        drawn = us * (self._drift[clock] * noise)[:, np.newaxis] * spread * slow
        pooled = drawn.ravel()
        enough = {name: len(pooled) >= floor for name, (_, floor) in _FLOORS.items()}
        return {
            **{
                f"{name}_us": round(float(np.percentile(pooled, which)), 2) if enough[name] else None
                for name, (which, _) in _FLOORS.items()
            },
            "missing": {
                name: f"needs {floor:,} samples for 99 % confidence"
                for name, (_, floor) in _FLOORS.items()
                if not enough[name]
            },
            "samples": len(pooled),
            "stable": True,
            "windows_p50_us": [round(float(each), 2) for each in np.median(drawn, axis=1)],
            "undisturbed_p50_us": None,
            "windows_undisturbed_p50_us": [None] * _ROUNDS,
            "quantiles_us": [round(float(each), 2) for each in np.quantile(pooled, _QUANTILES)],
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
                "kept": p99 <= _BOUND_MS,
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
        guesses[lost] = (self._truth[lost] + 1) % _CLASSES
        guesses[won] = self._truth[won]
        for image in other:
            neither = {int(self._truth[image]), int(self._reference[image])}
            guesses[image] = next(each for each in range(_CLASSES) if each not in neither)
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
                "png": _png(int(image)),
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


def _ways() -> list[tuple[str, int, bool]]:
    """Every TFLite format with each number of threads, with XNNPACK and without."""
    return [(name, threads, xnnpack) for name in FORMATS for xnnpack in (True, False) for threads in _THREADS]


def _row(name: str, kind: str, format_: str, threads: int | None) -> dict[str, Any]:
    """A row's fields of which there is nothing to say, where nobody says something else."""
    return {
        "name": name,
        "kind": kind,
        "format": format_,
        "threads": threads,
        "delegate": None,
        "server": None,
        "protocol": None,
        "arena_bytes": None,
        "sweep": None,
        "parts_us": None,
        "loadgen": None,
        "empty": {},
    }


def _offline(rate: float) -> dict[str, Any]:
    return {"rate": rate, "images": _IMAGES, "seconds": round(_IMAGES / rate, 3), "batch": 64}


def _png(seed: int) -> str:
    """A small picture: a bright bar on black, somewhere else for every seed."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 4 + seed % 16 : 8 + seed % 16] = 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _sha256(text: str) -> str:
    """Something with the look of a digest, another for every text."""
    return f"{binascii.crc32(text.encode()):08x}" * 8
