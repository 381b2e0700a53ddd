"""How thoroughly is measured: three modes, as rows of one table."""

import math
from dataclasses import dataclass

from tfship.benchmarks.harness.timer import MOST, WINDOW, window_for

__all__ = ["BOUND_MS", "MODES", "Mode"]

# MLPerf's bound for image classification (ResNet-50) in the Server scenario.
BOUND_MS = 15.0


@dataclass(frozen=True)
class Mode:
    """What a mode measures, and for how long.

    `images` is how many images accuracy is taken of (None: all), `variant_images` that of rows that differ from another
    in threads or kernels only; `variants` asks for every number of threads and for TFLite without XNNPACK,
    `tensorflow` for what needs TensorFlow: Keras, SavedModel and the server with that back end. A window has at least
    `window` queries in `window_seconds`, fewer where they take more than `longest` seconds; batches take no more than
    `window_seconds`. Rows have so many `rounds` to settle in. Where formats are ranked it is waited for an undisturbed
    processor, `patience` seconds in all, and unless `longest_compared` is None they are measured in all rounds that
    there may be, up to so many seconds a window. A trial of the Server scenario lasts at least `trial_seconds`, and
    `trials` rates are tried; a step of the sweep over `connections` lasts `sweep_seconds`, and Offline asks `offline`
    images.
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
            "quick", "one to two minutes: a look; TFLite only", 1_000, 1_000, False, False,
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
            "official", "as long as MLPerf's rules ask: 10 minutes for each scenario of each row",
            None, 10_000, True, True, window=window_for("99.9"), window_seconds=200.0, most=1_000_000,
            longest=math.inf, longest_compared=None, rounds=MOST, patience=60.0,
            trial_seconds=600.0, trials=6, sweep_seconds=60.0, connections=(1, 2, 4, 8, 16, 32), offline=24_576,
        ),
    )
}  # fmt: skip
