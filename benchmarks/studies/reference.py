"""Reference figures of TensorFlow Serving on two machines, and how many times as fast the embedded server must be.

TensorFlow Serving 2.20.0 with 128 gRPC threads, serving the float32 SavedModels of the two digit networks on two cores,
with the load generator on the same two cores: medians of three runs, on the first machine of 4 s with the better of
batching on and off, on the second of 3 s without batching.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from tfship.export.publishing.cards import SAVED_MODEL

__all__ = [
    "CELLS",
    "CONNECTIONS",
    "FORMAT",
    "MACHINES",
    "SERVER",
    "Figures",
    "LoadCell",
    "Machine",
    "bar",
    "nearest",
]

SERVER: Final = "TensorFlow Serving 2.20.0"
# The format of the TFLite files that are compared.
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


CELLS: Final = tuple(
    LoadCell(model, batch, protocol)
    for model in ("nn", "cnn")
    for batch in (1, 64)
    for protocol in ("rest", "grpc")
)


# Numbers of connections with figures.
CONNECTIONS: Final = (1, 8, 32)
_T = TypeVar("_T")
_Three = tuple[float, float, float]


@dataclass(frozen=True)
class Machine:
    """A machine and TensorFlow Serving's figures there, by cell and number of connections.

    `yardsticks` are its speed by model and format: microseconds for one image in process, by LiteRT with one thread.
    """

    name: str
    rates: Mapping[LoadCell, Mapping[int, Figures]]
    yardsticks: Mapping[str, Mapping[str, float]]


def _by_cell(*rows: tuple[_T, _T, _T]) -> dict[LoadCell, dict[int, _T]]:
    """Return the values of `rows`, in the order of `CELLS`, by cell and number of connections."""
    return {cell: dict(zip(CONNECTIONS, row, strict=True)) for cell, row in zip(CELLS, rows, strict=True)}


def _rates(*rows: tuple[_Three, _Three, _Three]) -> dict[LoadCell, dict[int, Figures]]:
    return {
        cell: {count: Figures(*each) for count, each in row.items()} for cell, row in _by_cell(*rows).items()
    }


MACHINES: Final = (
    Machine(
        "a two-core AMD EPYC",
        _rates(
            ((2243, 0.42, 0.73), (6578, 1.14, 2.45), (8983, 3.44, 5.76)),
            ((2610, 0.37, 0.56), (6654, 1.14, 2.43), (6816, 4.58, 8.35)),
            ((250, 3.74, 6.11), (556, 14, 27), (607, 52, 69)),
            ((1495, 0.63, 0.93), (3102, 2.47, 5.19), (3146, 10, 16)),
            ((1304, 0.72, 1.23), (2998, 2.62, 4.27), (2860, 11, 15)),
            ((1338, 0.70, 1.14), (2802, 2.8, 4.9), (3970, 8.0, 13.9)),
            ((85, 11, 16), (107, 73, 120), (101, 296, 541)),
            ((109, 9.0, 13), (127, 64, 103), (126, 258, 394)),
        ),
        {"nn": {"float32": 7.6, "int8": 2.3}, "cnn": {"float32": 236.0, "int8": 70.0}},
    ),
    Machine(
        "a two-core AMD EPYC with AVX-512",
        _rates(
            ((4390, 0.216, 0.416), (11824, 0.634, 1.29), (12373, 2.5, 4.41)),
            ((5262, 0.182, 0.332), (14145, 0.515, 1.17), (16269, 1.72, 4.67)),
            ((487, 2.02, 2.68), (792, 9.98, 18.2), (816, 38, 57.1)),
            ((2245, 0.433, 0.63), (5112, 1.41, 2.78), (4754, 5.1, 15)),
            ((1943, 0.498, 0.811), (4424, 1.75, 3.51), (4205, 7.33, 11.4)),
            ((2092, 0.444, 0.705), (3688, 2.1, 4.86), (3521, 5.93, 23.1)),
            ((148, 6.62, 9.74), (192, 40.5, 71.5), (184, 165, 264)),
            ((226, 4.29, 7.49), (252, 32.2, 55.6), (252, 73.8, 251)),
        ),
        {"nn": {"float32": 6.3, "int8": 1.6}, "cnn": {"float32": 109.5, "int8": 32.3}},
    ),
)


def nearest(yardsticks: Mapping[str, float]) -> Machine:
    """Return the machine whose speed is the nearest to `yardsticks`, microseconds of float32 by model.

    The cnn's decides, if it was measured: it differs most between machines.
    """
    model = "cnn" if "cnn" in yardsticks else "nn"
    return min(MACHINES, key=lambda machine: abs(machine.yardsticks[model][FORMAT] - yardsticks[model]))


# How many times the reference's rate is required.
_BARS = {
    FORMAT: _by_cell(
        (1.6, 1.6, 1.6),
        (1.6, 2.2, 2.2),
        (2.0, 2.0, 2.0),
        (1.2, 1.2, 1.0),
        (1.6, 1.6, 1.6),
        (1.6, 2.5, 2.5),
        (1.05, 1.05, 1.05),
        (1.05, 1.05, 1.05),
    ),
    SAVED_MODEL: _by_cell(
        (1.0, 1.0, 1.0),
        (0.8, 0.8, 0.8),
        (0.95, 0.95, 0.95),
        (0.95, 0.95, 0.95),
        (1.0, 1.0, 1.0),
        (1.0, 1.0, 1.0),
        (0.95, 0.95, 0.95),
        (0.95, 0.95, 0.95),
    ),
}


def bar(cell: LoadCell, connections: int, format_name: str) -> float | None:
    """Return how many times the reference's rate is required, None if nothing is."""
    return _BARS.get(format_name, {}).get(cell, {}).get(connections)
