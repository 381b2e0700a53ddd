"""Release of networks: `python -m tfship.export.publishing.release` copies them to models/released, to be committed.

It copies each network's weights, its training card, and the int8 TFLite file of the version exported from these
weights. A fresh clone can then predict and export without training.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tfship.export.conversion import formats
from tfship.export.publishing import cards, store
from tfship.train import cards as training_cards
from tfship.train.cards import RELEASED
from tfship.train.common import cli
from tfship.train.common.errors import ArtifactError
from tfship.train.common.files import staged
from tfship.train.data.datasets import SAMPLE
from tfship.train.recipe import NETWORKS

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Copy the networks' files, print their paths, and return the exit code."""
    parser = cli.parser(
        "python -m tfship.export.publishing.release",
        f"Copy trained and exported networks to <models>/{RELEASED}.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *NETWORKS], help="(default: both)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="the folder to read and write")
    arguments = parser.parse_args(argv)
    for name in arguments.names or NETWORKS:
        for path in _release(name, arguments.models):
            print(path)  # noqa: T201
    return 0


def _release(name: str, models: Path) -> list[Path]:
    card = training_cards.read(models, name)
    if card.data["label"] == SAMPLE:
        raise ArtifactError(
            f"{models / name}.keras was trained on the sample digits; expected MNIST: train it with MNIST_NPZ=FILE"
        )
    version = store.latest(models / name)
    if cards.read(version).keras_sha256 != card.keras_sha256:
        raise ArtifactError(
            f"{version} was exported from other weights than {name}.keras; run `tfship export` first"
        )
    released = models / RELEASED
    file = released / f"{name}.{formats.RELEASED}.tflite"
    with staged(file) as temporary:
        shutil.copyfile(version / formats.FORMATS[formats.RELEASED].file, temporary)
    return [file, *training_cards.copy(card, models, released)]


if __name__ == "__main__":
    sys.exit(cli.run(main))
