"""One export: SavedModel and TFLite files built in a stage, each one checked, then published as a version."""

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from export import calibration, store, verify
from export.cards import SAVED_MODEL, ExportCard
from export.formats import Format
from export.runtime import Classifier
from train import cards, environment, stats
from train.backend import tensorflow
from train.data import Digits, to_input
from train.errors import ArtifactError
from train.files import sha256

__all__ = ["export"]


def export(
    name: str, trained: Path, models: Path, digits: Digits, rows: list[Format], say: Callable[[str], None]
) -> tuple[Path, ExportCard]:
    """Export `trained/name.keras` as the next version of `models/name` and return its directory and card.

    Every artefact is loaded back and run over all test images before anything is published. Raises
    ArtifactError if the weights are missing or damaged, ConversionError if a format can't be written and
    ResultError if what was written answers differently; nothing is published then.
    """
    training = cards.read(trained, name)
    tensorflow()
    import keras

    from export import convert

    try:
        model = keras.models.load_model(trained / f"{name}.keras", compile=False)
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"{trained / name}.keras: Keras can't load it ({error}); run `make train`"
        ) from error
    images = to_input(digits.x_test)
    reference = model.predict(images, batch_size=1000, verbose=0)
    chosen = calibration.choose(digits.y_train)
    calibration_images = to_input(digits.x_train[chosen])

    with store.draft(models / name) as draft:
        folder = draft.folder
        artefacts: list[dict[str, Any]] = []

        def check(format_name: str, files: list[Path], target: Classifier, start: float) -> None:
            try:
                probabilities = verify.predict_all(target, images, f"{name} {format_name}: checking")
            finally:
                target.close()
            figures = verify.compare(f"{name} {format_name}", probabilities, reference, digits.y_test)
            artefacts.append(
                {
                    "format": format_name,
                    "files": [path.relative_to(folder).as_posix() for path in files],
                    "bytes": sum(path.stat().st_size for path in files),
                    "sha256": sha256(*files),
                    **figures,
                }
            )
            say(f"{name} {format_name}: written and checked in {time.perf_counter() - start:.1f} s")

        start = time.perf_counter()
        convert.to_saved_model(model, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        check(SAVED_MODEL, files, verify.open_saved_model(folder), start)
        for row in rows:
            start = time.perf_counter()
            path = folder / row.file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(convert.to_tflite(folder, row, calibration_images))
            check(row.name, [path], verify.open_tflite(folder, row), start)
        card = ExportCard(
            model=name,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            keras_sha256=training.keras_sha256,
            classes=training.classes,
            data=digits.describe(),
            calibration=calibration.record(chosen),
            keras_accuracy=stats.accuracy(reference.argmax(1), digits.y_test),
            artefacts=artefacts,
            environment=environment.describe(),
        )
        card.write(folder)
        return draft.publish(), card
