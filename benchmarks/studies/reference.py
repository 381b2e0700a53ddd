"""Reference figures of TensorFlow Serving, and the share of them that the embedded server must reach.

TensorFlow Serving 2.20.0, `--grpc_max_threads=128`, the better of batching on and off, serving the float32
SavedModels of the two digit networks on a two-core AMD EPYC, with the load generator on the same two cores;
medians of three runs of 4 s.
"""

from dataclasses import dataclass
from typing import Final

__all__ = ["FORMAT", "MACHINE", "RATES", "YARDSTICKS", "Bar", "Figures", "LoadCell", "bar"]

MACHINE: Final = "TensorFlow Serving 2.20.0 on a two-core AMD EPYC"
# The format that the figures were measured with; bars apply to it alone.
FORMAT: Final = "float32"


@dataclass(frozen=True)
class Figures:
    """Requests per second, and the latency's median and 99th percentile in milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class LoadCell:
    """Requests of one kind: `batch` images to `model` over `protocol`, "rest" or "grpc"."""

    model: str
    batch: int
    protocol: str

    @property
    def name(self) -> str:
        """The name on the command line."""
        return f"{self.model}-{self.batch}-{self.protocol}"


# Figures by cell and number of connections.
RATES: Final = {
    LoadCell(model, batch, protocol): {1: Figures(*at_1), 8: Figures(*at_8), 32: Figures(*at_32)}
    for model, batch, protocol, at_1, at_8, at_32 in (
        ("nn", 1, "rest", (2243, 0.42, 0.73), (6578, 1.14, 2.45), (8983, 3.44, 5.76)),
        ("nn", 1, "grpc", (2610, 0.37, 0.56), (6654, 1.14, 2.43), (6816, 4.58, 8.35)),
        ("nn", 64, "rest", (250, 3.74, 6.11), (556, 14, 27), (607, 52, 69)),
        ("nn", 64, "grpc", (1495, 0.63, 0.93), (3102, 2.47, 5.19), (3146, 10, 16)),
        ("cnn", 1, "rest", (1304, 0.72, 1.23), (2998, 2.62, 4.27), (2860, 11, 15)),
        ("cnn", 1, "grpc", (1338, 0.70, 1.14), (2802, 2.8, 4.9), (3970, 8.0, 13.9)),
        ("cnn", 64, "rest", (85, 11, 16), (107, 73, 120), (101, 296, 541)),
        ("cnn", 64, "grpc", (109, 9.0, 13), (127, 64, 103), (126, 258, 394)),
    )
}

# Speed of that machine: microseconds for one image in process, by LiteRT with one thread.
YARDSTICKS: Final = {
    "nn": {"float32": 7.6, "int8": 2.3},
    "cnn": {"float32": 236.0, "int8": 70.0},
}


@dataclass(frozen=True)
class Bar:
    """A requirement: a "rate" of at least `share` times the reference's, or a "p50" of at most `share` times."""

    figure: str
    share: float

    def allows(self, ratio: float) -> bool:
        """Return whether a figure that is `ratio` times the reference's meets the bar."""
        return ratio >= self.share if self.figure == "rate" else ratio <= self.share


_SHARES = {
    ("cnn", 1, "rest"): 1.0,
    ("cnn", 1, "grpc"): 1.0,
    ("nn", 1, "rest"): 0.8,
    ("nn", 1, "grpc"): 0.6,
    ("cnn", 64, "rest"): 2.0,
    ("nn", 64, "rest"): 2.0,
    ("cnn", 64, "grpc"): 1.0,
    ("nn", 64, "grpc"): 0.7,
}


def bar(cell: LoadCell, connections: int) -> Bar | None:
    """Return the bar of a cell, None if there is no reference.

    For one image of the cnn on one connection it is a latency, for all other cells a rate.
    """
    if connections not in RATES.get(cell, {}):
        return None
    if (cell.model, cell.batch, connections) == ("cnn", 1, 1):
        return Bar("p50", 1.0)
    return Bar("rate", _SHARES[cell.model, cell.batch, cell.protocol])
