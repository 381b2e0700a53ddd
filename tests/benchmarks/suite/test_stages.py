"""Which rows a stage measures, and the number of measurements that the progress bar counts."""

from dataclasses import replace

import pytest

from tfship.benchmarks.suite import stages
from tfship.benchmarks.suite.modes import MODES
from tfship.benchmarks.suite.system_under_test import XNNPACK, OpenSubject, Subject


def _open(_: int) -> OpenSubject:
    raise NotImplementedError


FLOAT32 = Subject("float32", "tflite", "float32", 1, XNNPACK, 1, "", _open)
INT8 = replace(FLOAT32, name="int8", format="int8")
SERVED = Subject("embedded, gRPC", "served", "float32", 1, None, 1, "", _open, server="embedded")


@pytest.mark.parametrize(
    ("row", "measured"),
    [
        (FLOAT32, {"accuracy", "end to end", "offline", "server", "own process", "operators"}),
        (INT8, {"accuracy", "end to end", "offline", "own process", "operators", "layers"}),
        (replace(INT8, name="int8, 2 threads", threads=2), {"accuracy", "own process"}),
        (
            SERVED,
            {
                "first request", "accuracy", "end to end", "parts of a request", "offline", "connections", "server",
                "peak",
            },
        ),
    ],
)  # fmt: skip
def test_rows_of_stages(row: Subject, measured: set[str]) -> None:
    found = stages.measurements(MODES["quick"], row)
    assert set(found) == measured | {"one image", "8 images", "64 images"}
    assert found["one image"] == 3
    assert found["accuracy"] == 1
    assert set(stages.measurements(MODES["quick"], row, loadgen=True)) - set(found) == (
        {"LoadGen"} if row.plain else set()
    )


def test_ranked_formats_are_measured_in_all_rounds() -> None:
    mode = MODES["default"]
    assert stages.measurements(mode, INT8)["one image"] == 10
    assert stages.measurements(mode, INT8)["end to end"] == 3
    assert stages.measurements(mode, SERVED)["one image"] == 3
