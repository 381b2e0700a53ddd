"""Diagnosis of TFLite files: agreement in TensorFlow Lite Micro, and the layer at which a file diverges."""

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

# Limits for TensorFlow Lite Micro, whose kernels are slow: images, seconds for all of them, and seconds after which
# the process is ended, even during the first image.
_MICRO_IMAGES, _MICRO_SECONDS, _MICRO_LIMIT = 100, 20.0, 60.0
_LAYER_IMAGES = 100


def micro(
    isolation: Isolation, target: Classifier, path: Path, contract: Contract, pixels: NDArray[np.uint8]
) -> dict[str, Any]:
    """Run the file `path` in TensorFlow Lite Micro and compare its decisions with those of `target`.

    `target` is the same file in LiteRT; `pixels` are uint8 [N, H, W, C], of which the first 100 are used. Returns
    `arena_bytes`, `agreement` (a share, 0 to 1) and `images`. If TensorFlow Lite Micro can't run the file, returns
    only `refused` with the reason, because that is no failure of the export.
    """
    sample = pixels[:_MICRO_IMAGES]
    tensors = target.prepare(sample if target.takes_pixels else contract.scale(sample))
    run = functools.partial(isolation.run, tflite_micro.NAME, seconds=_MICRO_LIMIT, subject=path.stem)
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
    """Compare the file `path` with the float32 file `reference` layer by layer; return the entries for the card.

    `layers` are the layers' names in Keras. The list is empty if the comparison fails.
    """
    try:
        found = isolation.run(
            "LiteRT", layer_divergence.compare, reference, path, pixels[:_LAYER_IMAGES], contract, layers,
            subject=f"{path.stem} by layers",
        )  # fmt: skip
    except ArtifactError:
        return []
    return [each.describe() for each in found]


def first_divergence(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a list with a phrase about the first layer that diverges, empty if none does."""
    return [
        f"{each['operator']} {each['name']} is the first whose output diverges ({each['snr_db']:.0f} dB)"
        for each in layers
        if each["diverges"]
    ][:1]
