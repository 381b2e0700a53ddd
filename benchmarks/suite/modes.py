"""The three modes of a benchmark, which differ in duration and precision."""

import math
from dataclasses import dataclass

from tfship.benchmarks.harness.timer import MOST, WINDOW, window_for

__all__ = ["BOUND_MS", "MODES", "Mode"]

# MLPerf's latency bound for image classification (ResNet-50) in the Server scenario.
BOUND_MS = 15.0


@dataclass(frozen=True)
class Mode:
    """The scope of a mode and the duration of its measurements.

    Accuracy uses the first `images` images (None: all), or `variant_images` for rows that differ from another row only
    in threads or kernels. `variants` adds every number of threads and TFLite without XNNPACK. `tensorflow` adds what
    needs TensorFlow: Keras, SavedModel, and the server with that backend.

    A window has at least `window` queries, takes `window_seconds` or longer and has at most `most` queries. It has
    fewer if they take more than `longest` seconds. Windows of batches take at most `window_seconds`. Timings have
    `rounds` rounds to settle in. Formats are ranked with up to `patience` seconds of waiting for an undisturbed
    processor. Unless `longest_compared` is None, they are measured in all rounds, in windows of up to
    `longest_compared` seconds.

    The Server scenario tries `trials` rates, each for at least `trial_seconds`. The sweep over `connections` takes
    `sweep_seconds` for each number of connections. The Offline scenario has `offline` images.
    """

    name: str
    use: str
    images: int | None
    variant_images: int
    variants: bool
    tensorflow: bool
    window: int
    window_seconds: float
    most: int
    longest: float
    longest_compared: float | None
    rounds: int
    patience: float
    trial_seconds: float
    trials: int
    sweep_seconds: float
    connections: tuple[int, ...]
    offline: int


MODES = {
    row.name: row
    for row in (
        Mode(
            "quick", "one to two minutes, TFLite only: a first impression", 1_000, 1_000, False, False,
            window=window_for("90"), window_seconds=0.05, most=20_000, longest=0.3, longest_compared=None,
            rounds=5, patience=3.0, trial_seconds=0.3, trials=2, sweep_seconds=0.2,
            connections=(1, 8), offline=256,
        ),
        Mode(
            "default", "about five minutes a model: everything", None, 1_000, True, True,
            window=WINDOW, window_seconds=0.1, most=20_000, longest=0.35, longest_compared=1.0,
            rounds=5, patience=30.0, trial_seconds=0.8, trials=3, sweep_seconds=0.3,
            connections=(1, 2, 4, 8, 16, 32), offline=2_048,
        ),
        Mode(
            # MLPerf Inference: 600 s for each scenario, Offline 24,576 samples.
            "official", "as long as MLPerf's rules require: 10 minutes for each scenario of each row",
            None, 10_000, True, True, window=window_for("99.9"), window_seconds=200.0, most=1_000_000,
            longest=math.inf, longest_compared=None, rounds=MOST, patience=60.0,
            trial_seconds=600.0, trials=6, sweep_seconds=60.0, connections=(1, 2, 4, 8, 16, 32), offline=24_576,
        ),
    )
}  # fmt: skip
