"""Scores of an exported version for evaluation images, by format, in a separate process.

python -m tfship.benchmarks.studies.zoo.answers VERSION EVALUATION.npz ANSWERS.npz    run all formats of a version

It uses the same runtimes and contract as the version's users. If a runtime aborts, only this process ends.
"""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfship.benchmarks.studies.zoo.study import PROBED
from tfship.export.conversion.formats import FORMATS
from tfship.export.preprocessing import input_contract
from tfship.export.publishing import cards, verification
from tfship.export.publishing.cards import SAVED_MODEL
from tfship.train.common import cli

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write an .npz with each format's scores [N, labels], and `probe`, the first images scaled by the contract."""
    version, evaluation, answers = map(Path, sys.argv[1:] if argv is None else argv)
    rules = input_contract.read(version)
    with np.load(evaluation) as arrays:
        pixels = arrays["x"]
    found: dict[str, Any] = {"probe": rules.scale(pixels[:PROBED])}
    for name in (each["format"] for each in cards.read(version).artefacts):
        opened = (
            verification.open_saved_model(version)
            if name == SAVED_MODEL
            else verification.open_tflite(version, FORMATS[name])
        )
        with contextlib.closing(opened) as target:
            scale = (lambda images: images) if target.takes_pixels else rules.scale
            found[name] = verification.predict_all([target], pixels, name, scale)
    np.savez(answers, **found)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
