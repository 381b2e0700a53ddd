"""What made-up results consist of: their sizes and times, and rows with nothing in them yet."""

import base64
import binascii
import io
from typing import Any

import numpy as np
from PIL import Image

from tfship.export.conversion.formats import FORMATS

MODELS = ("nn", "cnn")
IMAGES, CLASSES = 10_000, 10
ROUNDS, WINDOW = 3, 2_500
THREADS = (1, 2)
BOUND_MS = 10.0
QUANTILES = (
    0.0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0,
)  # fmt: skip
# Samples that each percentile needs.
FLOORS = {"p50": (50, 11), "p90": (90, 64), "p99": (99, 662), "p99.9": (99.9, 6_636)}

# By model and format: size in bytes, the arena's, images of the reference's that are now wrong, and those that are
# now right, and those that are wrong either way, but otherwise.
FILES: dict[str, dict[str, tuple[int, int | None, int, int, int]]] = {
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
SAVED_MODEL = {"nn": 653_399, "cnn": 2_423_774}
KERAS = {"nn": 1_131_040, "cnn": 6_560_112}
CORRECT = {"nn": 9_802, "cnn": 9_939}

# By model: the layers as (operator, name, microseconds in float32, in int8, in int16 by TFLite's own kernels).
LAYERS = {
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
EDGE_US = {"nn": (0.4, 0.2), "cnn": (0.5, 0.2)}
CALL_US = 0.6
DRAWN_US = 113.0  # from a picture's bytes to a prepared image

# By model: how many times as long it takes with two threads, and without XNNPACK.
TWO_THREADS = {"nn": 1.3, "cnn": 0.64}
NO_XNNPACK = {"nn": 1.4, "cnn": 1.9}
# By model: the time of an image in a batch of 8 and of 64, as a share of that of one alone.
IN_BATCHES = {"nn": (0.42, 0.3), "cnn": (0.88, 0.84)}

# Server, protocol, format, and by model microseconds of a request and requests per second at most.
SERVED: tuple[tuple[str, str, str, dict[str, tuple[float, int]]], ...] = (
    ("embedded TFLite", "REST JSON", "float32", {"nn": (820, 4_900), "cnn": (1_060, 3_000)}),
    ("embedded TFLite", "gRPC", "float32", {"nn": (470, 6_100), "cnn": (700, 3_700)}),
    ("embedded SavedModel", "REST JSON", "savedmodel", {"nn": (1_150, 2_400), "cnn": (1_480, 1_900)}),
    ("embedded SavedModel", "REST base64", "savedmodel", {"nn": (1_020, 2_600), "cnn": (1_340, 2_000)}),
    ("embedded SavedModel", "gRPC", "savedmodel", {"nn": (760, 3_100), "cnn": (1_090, 2_300)}),
)  # fmt: skip
CONNECTIONS = ((1, 0.45), (8, 0.9), (32, 1.0), (128, 0.97))


def ways() -> list[tuple[str, int, bool]]:
    """Every TFLite format with each number of threads, with XNNPACK and without."""
    return [(name, threads, xnnpack) for name in FORMATS for xnnpack in (True, False) for threads in THREADS]


def row(name: str, kind: str, format_: str, threads: int | None) -> dict[str, Any]:
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


def offline(rate: float) -> dict[str, Any]:
    return {"rate": rate, "images": IMAGES, "seconds": round(IMAGES / rate, 3), "batch": 64}


def png(seed: int) -> str:
    """A small picture: a bright bar on black, somewhere else for every seed."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 4 + seed % 16 : 8 + seed % 16] = 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def sha256(text: str) -> str:
    """Something with the look of a digest, another for every text."""
    return f"{binascii.crc32(text.encode()):08x}" * 8
