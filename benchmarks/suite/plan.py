"""How long a benchmark will take, stage by stage and row by row: what its progress and the time left come from.

Expectations, on two cores and the digit networks; progress follows the clock wherever they are wrong.
"""

from collections.abc import Sequence

from tfship.benchmarks.harness.timer import AGREEING, FLOORS, MOST, SLICES
from tfship.benchmarks.suite.latency_stages import END_TO_END, STAGES, in_all_rounds, least, longest
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.system_under_test import Subject
from tfship.serving.server.settings import cores

__all__ = ["Plan"]

# Seconds of a query of one image, by kind or protocol; JSON's grows with the images, others' hardly.
_QUERY = {
    "tflite": 0.0003,
    "savedmodel": 0.0005,
    "keras": 0.008,
    "REST JSON": 0.004,
    "REST base64": 0.003,
    "gRPC": 0.002,
}
# Seconds for an image in a large batch.
_IMAGE = {
    "tflite": 0.0002,
    "savedmodel": 0.0002,
    "keras": 0.0003,
    "REST JSON": 0.0015,
    "REST base64": 0.0004,
    "gRPC": 0.0003,
}
_PROBE = {"tflite": 0.8, "savedmodel": 8.0, "keras": 9.0}
_IN_WINDOWS = {*STAGES.values(), END_TO_END}


class Plan:
    """The expected seconds of every stage of a model's rows; `take` what is done, once for each figure."""

    def __init__(self, mode: Mode, rows: Sequence[Subject], images: int) -> None:
        self._mode, self._images = mode, images
        self._left: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            for stage, seconds in self._stages(row).items():
                parts = self._rounds(row, stage) * SLICES if stage in _IN_WINDOWS else 1
                self._left[stage, row.name] = [seconds / parts] * parts
        self.total = sum(map(sum, self._left.values()))

    def take(self, stage: str, row: str) -> float:
        """Return the seconds that were expected for what is done now: a slice of a window, or the whole of a stage.

        They are 0 for what wasn't expected, such as a window beyond the third of what needs no more.
        """
        left = self._left.get((stage, row))
        return left.pop() if left else 0.0

    def _stages(self, row: Subject) -> dict[str, float]:
        mode = self._mode
        query, image = (table[row.protocol or row.kind] for table in (_QUERY, _IMAGE))

        def windows(stage: str, count: int, seconds: float) -> float:
            most = longest(mode, stage, in_all_rounds(mode, row, stage))
            return self._rounds(row, stage) * max(mode.window_seconds, min(most, count * seconds))

        stages = {
            "accuracy": (self._images if row.plain else min(self._images, mode.variant_images))
            * image
            / cores(),
            **{
                stage: windows(stage, least(mode, row, size), query + (size - 1) * image)
                for size, stage in STAGES.items()
            },
            END_TO_END: windows(END_TO_END, mode.window, query + 0.0003) if row.plain else 0.0,
            "offline": mode.offline * image / cores() if row.plain else 0.0,
        }
        if row.server:
            stages["connections"] = len(mode.connections) * (mode.sweep_seconds + 0.1)
            stages["parts of a request"] = 120 * query
            stages["server"] = 1.5 * mode.trials * max(mode.trial_seconds, FLOORS["99"] * query / 2)
        else:
            stages["own process"] = _PROBE[row.kind]
        if row.kind == "tflite" and row.plain:
            stages["operators"] = 0.5
        return stages

    def _rounds(self, row: Subject, stage: str) -> int:
        return MOST if in_all_rounds(self._mode, row, stage) else AGREEING
