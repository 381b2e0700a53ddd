"""Figures of a TFLite file beyond its scores: TensorFlow Lite Micro's, and where a quantized file diverges."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.export.conversion import layer_divergence
from tfship.export.preprocessing.input_contract import Contract
from tfship.export.runtimes import tflite_micro
from tfship.export.runtimes.isolation import Isolation
from tfship.export.runtimes.protocol import Classifier
from tfship.train.common.errors import ArtifactError

__all__ = ["by_layers", "first_divergence", "micro"]

# TensorFlow Lite Micro, whose kernels are slow, runs this many evaluation images, or as many as it can in so many
# seconds; a file whose first takes much longer is too large for it.
_MICRO_IMAGES, _MICRO_SECONDS, _MICRO_LIMIT = 100, 20.0, 60.0
_LAYER_IMAGES = 100


def micro(
    isolation: Isolation, target: Classifier, path: Path, contract: Contract, pixels: NDArray[np.uint8]
) -> dict[str, Any]:
    """Run some images [N, H, W, C] in TensorFlow Lite Micro and compare its decisions with those of `target`.

    `target` is the same file in LiteRT. Returns `arena_bytes`, `agreement` (a share, 0 to 1) and `images`, or
    `refused` with the reason: a file that TensorFlow Lite Micro can't run is no failure.
    """
    some = pixels[:_MICRO_IMAGES]
    tensors = target.prepare(some if target.takes_pixels else contract.scale(some))
    run = functools.partial(isolation.run, tflite_micro.NAME, seconds=_MICRO_LIMIT, about=path.stem)
    try:
        found = run(tflite_micro.predict, path, tensors, _MICRO_SECONDS)
        decided = found.argmax(1)
        expected = target.infer(tensors[: len(decided)]).argmax(1)
        arena = run(tflite_micro.arena, path)
    except ArtifactError as error:
        return {"refused": str(error)}
    return {
        "arena_bytes": arena,
        "agreement": float(np.mean(decided == expected)),
        "images": len(decided),
    }


def by_layers(
    isolation: Isolation,
    reference: Path,
    path: Path,
    contract: Contract,
    layers: Sequence[str],
    pixels: NDArray[np.uint8],
) -> list[dict[str, Any]]:
    """Compare the outputs of a file's layers with those of the float32 file `reference`; nothing if that fails."""
    try:
        found = isolation.run(
            "LiteRT", layer_divergence.compare, reference, path, pixels[:_LAYER_IMAGES], contract, layers,
            about=f"{path.stem} by layers",
        )  # fmt: skip
    except ArtifactError:
        return []
    return [each.describe() for each in found]


def first_divergence(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a phrase about the first layer that diverges, nothing if none does."""
    return [
        f"{each['operator']} {each['name']} is the first whose output diverges ({each['snr_db']:.0f} dB)"
        for each in layers
        if each["diverges"]
    ][:1]
