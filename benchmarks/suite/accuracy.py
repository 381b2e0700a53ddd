"""The accuracy stage: every row's probabilities for every image, by the same targets that are timed."""

import base64
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.suite.measured_model import Bench
from tfship.benchmarks.suite.system_under_test import OpenSubject
from tfship.serving.server.settings import cores
from tfship.train.common.errors import ResultError

__all__ = ["probabilities"]

_BATCH = 250


def probabilities(bench: Bench, targets: Mapping[str, OpenSubject]) -> dict[str, NDArray[np.float32]]:
    """Return each row's probabilities [N, classes], of all images, or of the first ones for variants.

    Raises ResultError for values of another shape and for values that aren't finite.
    """
    stage = "accuracy"
    kept = bench.kept(stage)
    every = len(bench.images.pixels)
    count = {row.name: every if row.plain else min(every, bench.mode.variant_images) for row in bench.rows}

    def predict(name: str) -> None:
        if name in kept:
            return
        shape = (count[name], len(bench.contract.labels))
        found = np.concatenate(
            [
                targets[name].predict(bench.images.pixels[start : min(start + _BATCH, count[name])])
                for start in range(0, shape[0], _BATCH)
            ]
        )
        if found.shape != shape or not np.isfinite(found).all():
            raise ResultError(
                f"{bench.name}, {name}: returned probabilities {list(found.shape)}; expected finite {list(shape)}"
            )
        kept[name] = base64.b64encode(zlib.compress(found.astype("<f4").tobytes(), 1)).decode()

    # Nothing is timed here, so rows run in parallel, one on each core.
    with ThreadPoolExecutor(cores()) as pool:
        for name, _ in zip(targets, pool.map(predict, targets), strict=True):
            bench.count(stage, name)
    return {
        name: np.frombuffer(zlib.decompress(base64.b64decode(kept[name])), "<f4").reshape(count[name], -1)
        for name in targets
    }
