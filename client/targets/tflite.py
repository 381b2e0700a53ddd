"""TFLite files in this process. Doesn't load TensorFlow."""

from pathlib import Path

from tfship.client.targets.registry import Choice, Opened, in_process
from tfship.export.conversion import formats
from tfship.export.publishing import store
from tfship.export.runtimes.litert import LiteRT
from tfship.train.cards import RELEASED
from tfship.train.common import cli
from tfship.train.common.tensorflow_loader import quiet

__all__ = ["open_target"]


def open_target(choice: Choice) -> Opened:
    """Open the TFLite file that was chosen: by its path, or by a format of the version, by default float32."""
    path = _file(choice)
    with quiet():  # LiteRT logs its delegate
        runtime = LiteRT(path)
    return in_process(choice, path, runtime, choice.contract_near(path))


def _file(choice: Choice) -> Path:
    chosen_by_path = choice.path and not choice.format
    if not chosen_by_path and choice.servable.version is None and not store.versions(choice.base):
        name = f"{choice.servable.name}.{choice.format or formats.RELEASED}.tflite"
        released = choice.models / RELEASED / name
        if released.is_file():
            cli.say(f"{choice.base} holds no version; using the released model {released}")
            return released
    return choice.locate_format(lambda row: row.file)
