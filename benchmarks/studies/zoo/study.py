"""Networks of many kinds, fitted for seconds, exported by `tfship export`, and judged.

Each network takes three steps, each in a separate process. `benchmarks.studies.zoo.networks` builds and fits it and
saves Keras' scores. `tfship export` exports it at a terminal, without its range of values.
`benchmarks.studies.zoo.answers` runs the published version. A network is right if the detected range is the one it was
trained on and the published files agree with Keras, or if it is refused for the expected reason.
"""

import argparse
import re
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import child_terminal
from tfship.benchmarks.harness.child_terminal import Ended
from tfship.benchmarks.report.command import OUT
from tfship.benchmarks.studies.registry import Save
from tfship.export.conversion import formats
from tfship.export.conversion.formats import FORMATS
from tfship.export.publishing import cards, store
from tfship.export.publishing.cards import SAVED_MODEL
from tfship.export.publishing.gate import MIN_AGREEMENT
from tfship.train.common import cli
from tfship.train.common.cli import one_line
from tfship.train.common.errors import UsageError
from tfship.train.common.files import read_json, stage
from tfship.train.common.progress import Progress
from tfship.train.data import datasets
from tfship.train.data.datasets import Digits

__all__ = [
    "ARCHITECTURES", "FAILED", "FITTED", "MOST_BYTES", "MOST_LINES", "MOST_SECONDS", "PROBED", "REFUSED", "RIGHT",
    "Architecture", "agreement", "judge", "measure", "save_digits", "tidy",
]  # fmt: skip

RIGHT, REFUSED, FAILED = "right", "refused", "FAILED"
# Bounds of one export.
MOST_LINES, MOST_SECONDS, MOST_BYTES = 40, 600, 6_000_000_000
# File with Keras' scores for the comparison, and the number of images whose values are compared.
FITTED, PROBED = "fitted.npz", 16
# Scores with a smaller difference are a tie, which rounding may decide (in float16 with mixed precision).
_TIE = 0.02
_MOST_SECONDS_OF_FITTING = 1800


@dataclass(frozen=True)
class Architecture:
    """A network of the zoo and its training data. `networks.BUILDERS` builds it.

    Its images are `side` × `side` pixels of 1 or 3 `channels`, which are scaled to `values` before the network (a name
    in `benchmarks.studies.zoo.networks.VALUES` and `export.preprocessing.range_detection`). An epoch has `images` of
    them. `labels` are "digit", "thousand" (the digit times 100, of 1,000 classes), "half" (5 or more), "several" (three
    labels for each image) or "number" (the digit as a number). With `logits`, the outputs have no softmax. With
    `saved_model`, the network is exported from a SavedModel, not from a Keras file. Without `fitted`, it keeps its
    random weights. `refused` is a pattern for the reason of the expected refusal, empty if the network must be
    exported.
    """

    description: str
    side: int
    channels: int
    values: str
    labels: str = "digit"
    images: int = 2000
    logits: bool = False
    saved_model: bool = False
    fitted: bool = True
    refused: str = ""

    @property
    def file(self) -> str:
        """The name of the model's file or folder."""
        return "model" if self.saved_model else "model.keras"


_ZERO_ONE, _PIXELS, _CENTRED = "0…1", "0…255", "-1…1"
_TORCH, _CAFFE = "ImageNet mean and deviation", "BGR minus ImageNet mean"

ARCHITECTURES = {
    "mobilenet_v2": Architecture("MobileNetV2", 32, 3, _CENTRED, images=1000),
    "mobilenet_v3_small": Architecture(
        "MobileNetV3Small, which scales by itself", 32, 3, _PIXELS, images=1000
    ),
    "efficientnet_v2_b0": Architecture(
        "EfficientNetV2B0, which scales by itself", 32, 3, _PIXELS, images=1000
    ),
    "resnet50": Architecture('ResNet50, "caffe" before it', 32, 3, _CAFFE, images=1000),
    "densenet121": Architecture('DenseNet121, "torch" before it', 32, 3, _TORCH, images=1000),
    "convnext_tiny": Architecture("ConvNeXtTiny, which scales by itself", 32, 3, _PIXELS, images=1000),
    "xception": Architecture("Xception, `preprocess_input` inside", 71, 3, _PIXELS, images=600),
    "nasnet_mobile": Architecture("NASNetMobile", 32, 3, _CENTRED, images=1000),
    "vit": Architecture("a vision transformer", 32, 3, _ZERO_ONE),
    "mlp_mixer": Architecture("an MLP-Mixer", 32, 3, _CENTRED),
    "lstm": Architecture("an LSTM over rows", 28, 1, _ZERO_ONE),
    "gru": Architecture("Rescaling and a GRU over rows", 28, 1, _PIXELS),
    "separable": Architecture("separable convolutions, Rescaling before them", 32, 3, _PIXELS),
    "dilated": Architecture("dilated convolutions", 28, 1, _ZERO_ONE),
    "transposed": Architecture("a transposed convolution", 28, 1, _CENTRED),
    "group_norm": Architecture("GroupNormalization", 32, 3, _TORCH),
    "mixed_precision": Architecture("mixed_float16", 28, 1, _ZERO_ONE),
    "nested": Architecture("Rescaling in a model within the model", 32, 3, _PIXELS),
    "augmented": Architecture("RandomFlip, RandomRotation, then Rescaling", 32, 3, _PIXELS),
    "resized": Architecture("Resizing, then Rescaling", 28, 1, _PIXELS),
    "normalization": Architecture("Normalization adapted on 0…1", 32, 3, _ZERO_ONE),
    "subclassed": Architecture("a subclassed model as a SavedModel", 28, 1, _CENTRED, saved_model=True),
    "uint8_input": Architecture("an input of dtype uint8", 28, 1, _PIXELS),
    "logits": Architecture("no softmax", 28, 1, _ZERO_ONE, logits=True),
    "thousand_classes": Architecture("1,000 classes", 32, 3, _ZERO_ONE, "thousand"),
    "one_sigmoid": Architecture("one sigmoid", 28, 1, _ZERO_ONE, "half"),
    "several_labels": Architecture("several labels an image", 28, 1, _CENTRED, "several"),
    "untrained": Architecture(
        "random weights", 28, 1, _ZERO_ONE, fitted=False, refused="no better than guessing"
    ),
    "regression": Architecture("one linear output", 28, 1, _ZERO_ONE, "number", refused="regression"),
}


DESCRIPTION = (
    "Build networks of many kinds, fit each for seconds, export it by `tfship export` without its range of values, and "
    "compare the published version with Keras. A network passes if it is exported right, or refused for the expected "
    "reason."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `StudyMeasurement.add_arguments`."""
    parser.add_argument("--only", metavar="A,B", help=f"only these networks, of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--formats", metavar="A,B", help="TFLite formats to export (default: all)")
    parser.add_argument(
        "--selective-seconds", type=float, default=60.0, metavar="S", help="seconds for the format selective"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT / "zoo", metavar="FOLDER",
        help="folder for logs, and for the files of networks that failed",
    )  # fmt: skip


def measure(arguments: argparse.Namespace, _flags: Sequence[str], save: Save) -> dict[str, Any]:
    """See `StudyMeasurement.measure`."""
    from tfship.benchmarks.studies.zoo import table  # imports this module

    names = list(dict.fromkeys((arguments.only or ",".join(ARCHITECTURES)).split(",")))
    if unknown := [name for name in names if name not in ARCHITECTURES]:
        raise UsageError(
            f"--only {','.join(unknown)}: no such network; expected some of {', '.join(ARCHITECTURES)}"
        )
    rows = formats.select(arguments.formats)
    settings = ["--formats", ",".join(row.name for row in rows)]
    settings += ["--selective-seconds", str(arguments.selective_seconds)]
    digits = datasets.load(datasets.find(arguments.data, say=cli.say))
    models: list[dict[str, Any]] = []
    results = {"data": digits.describe(), "models": models}
    out = arguments.out.resolve()
    with stage(out, "digits.npz") as file, Progress("zoo", len(names), "networks") as progress:
        save_digits(digits, file)
        for name in names:
            progress.advance(0, note=name)
            row = run(name, file, out / name, settings)
            models.append(row)
            progress.advance()
            progress.say(table.line(row))
            if row["verdict"] != FAILED:
                tidy(out / name)
            save(results)
    return results


def save_digits(digits: Digits, path: Path) -> None:
    """Write the digits to `path`, for `benchmarks.studies.zoo.networks`."""
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(path, **{name: getattr(digits, name) for name in names})


def run(name: str, digits: Path, folder: Path, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Fit and export a network in `folder`, which is emptied first; return its judged row.

    `digits` is the file that `save_digits` wrote. `settings` are additional flags for `tfship export`. The logs of the
    three commands stay in the folder.
    """
    architecture = ARCHITECTURES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row: dict[str, Any] = {"model": name, "says": architecture.description, "trained_on": architecture.values}
    fitted = _run(
        "networks",
        folder,
        _MOST_SECONDS_OF_FITTING,
        "tfship.benchmarks.studies.zoo.networks",
        name,
        digits,
        folder,
    )
    if fitted.code:
        return {**row, "verdict": FAILED, "problems": [f"fitting failed: {_failure(fitted, folder)}"]}
    row["fit"] = read_json(folder / "fit.json")
    models = folder / "models"
    ended = _run(
        "export", folder, MOST_SECONDS, "tfship.train.common.entry_point",
        "export", folder / architecture.file, "--name", name, "--models", models,
        "--eval", folder / "evaluation.npz", "--calibration", folder / "calibration.npz", *settings,
    )  # fmt: skip
    row["export"] = {
        "code": ended.code,
        "timed_out": ended.timed_out,
        "seconds": round(ended.seconds, 1),
        "peak_bytes": ended.peak_bytes,
        "lines": ended.lines,
        "traceback": "Traceback (most recent call last)" in ended.output,
        "last_line": _line(ended.last, folder),
    }
    if ended.code == 0:
        row |= _published(store.versions(models / name), folder)
    return row | judge(architecture, row)


def tidy(folder: Path) -> None:
    """Remove everything except the logs from a network's folder, which would take gigabytes for all networks."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".log":
            path.unlink()


def _published(versions: Mapping[int, Path], folder: Path) -> dict[str, Any]:
    """Return the published formats, and the agreement of their scores with Keras."""
    version = versions[max(versions)]
    card = cards.read(version)
    found: dict[str, Any] = {
        "values": card.detected.get("values"),
        "formats": [each["format"] for each in card.artefacts if each["format"] != SAVED_MODEL],
        "left_out": {name: _line(why, folder) for name, why in (card.unconverted | card.withheld).items()},
    }
    answers = folder / "answers.npz"
    ended = _run(
        "answers", folder, MOST_SECONDS, "tfship.benchmarks.studies.zoo.answers", version, folder / "evaluation.npz",
        answers
    )  # fmt: skip
    if ended.code:
        return {**found, "answers": _failure(ended, folder)}
    with np.load(answers) as published, np.load(folder / FITTED) as keras:
        several = np.load(folder / "evaluation.npz")["y"].ndim == 2
        values = np.allclose(published["probe"], keras["probe"].astype(np.float32), rtol=1e-5, atol=1e-4)
        formats = [SAVED_MODEL, *found["formats"]]
        return {
            **found,
            "values_right": bool(values),
            "agreement": {
                each: agreement(published[each], keras["scores"], several=several) for each in formats
            },
        }


def agreement(
    scores: NDArray[np.float32], keras: NDArray[np.float32], *, several: bool = False
) -> dict[str, Any]:
    """Return the agreement of decisions by `scores` and by `keras`, both [N, labels].

    `value` is the share of equal decisions, `decisions` their total number, and `wrong` the number that differ although
    Keras' scores are no tie. All count as wrong if the scores aren't finite or have another shape.
    """
    count = keras.size if several else len(keras)
    if scores.shape != keras.shape or not np.isfinite(scores).all():
        return {"value": 0.0, "decisions": count, "wrong": count}
    if several:
        differs = (scores >= 0.5) != (keras >= 0.5)
        margin = np.abs(keras - 0.5)
    else:
        rows, found = np.arange(len(keras)), scores.argmax(1)
        differs = found != keras.argmax(1)
        margin = keras.max(1) - keras[rows, found]
    wrong = int(np.sum(differs & (margin > _TIE)))
    return {"value": float(1 - np.mean(differs)), "decisions": count, "wrong": wrong}


def judge(architecture: Architecture, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `verdict` on a row, RIGHT, REFUSED or FAILED, and its `problems`, a phrase for each."""
    export = row["export"]
    problems = _behaviour(export)
    refused = export["code"] > 0 and export["last_line"].startswith("error: ")
    if refused and (not architecture.refused or not re.search(architecture.refused, export["last_line"])):
        problems.append(f"unexpectedly refused, {export['last_line']}")
    elif export["code"] > 0 and not refused:
        problems.append(f"exit {export['code']} without a reason: {export['last_line']}")
    elif export["code"] == 0:
        if architecture.refused:
            problems.append(f"exported; expected a refusal: {architecture.refused}")
        problems += _differences(row)
    return {"verdict": FAILED if problems else REFUSED if refused else RIGHT, "problems": problems}


def _behaviour(export: Mapping[str, Any]) -> list[str]:
    """Return the problems of the export command itself, whatever it exported."""
    found = []
    if export["timed_out"] or export["seconds"] > MOST_SECONDS:
        found.append(f"took {export['seconds']:.0f} s; expected at most {MOST_SECONDS}")
    elif export["code"] < 0:
        found.append(f"the export was killed by {_signal(export['code'])}")
    if export["traceback"]:
        found.append(f"a traceback: {export['last_line']}")
    if export["lines"] > MOST_LINES:
        found.append(f"{export['lines']} lines on the terminal; expected at most {MOST_LINES}")
    if export["peak_bytes"] > MOST_BYTES:
        found.append(f"{export['peak_bytes'] / 1e9:.1f} GB; expected at most {MOST_BYTES / 1e9:g}")
    return found


def _differences(row: Mapping[str, Any]) -> list[str]:
    """Return the problems of the published version."""
    if "answers" in row:
        return [f"the published version can't be run: {row['answers']}"]
    found = []
    if not row["values_right"]:
        found.append(f"detected values {row['values']}; trained on {row['trained_on']}")
    for name, each in row["agreement"].items():
        exact = name == SAVED_MODEL or FORMATS[name].exact
        if exact and each["wrong"]:
            found.append(f"{name} decides {each['wrong']} of {each['decisions']} differently from Keras")
        elif each["value"] < MIN_AGREEMENT:
            found.append(
                f"{name} agrees with Keras on {each['value']:.3f}; expected {MIN_AGREEMENT:g} or more"
            )
    return found


def _run(log: str, folder: Path, seconds: float, module: str, *arguments: object) -> Ended:
    ended = child_terminal.run([sys.executable, "-m", module, *map(str, arguments)], Path(), seconds)
    (folder / f"{log}.log").write_text("\n".join(ended.shown) + "\n", encoding="utf-8")
    return ended


def _line(text: str, folder: Path) -> str:
    """Return a message in one line, with file names relative to the folder."""
    return one_line(text.replace(f"{folder}/", ""))


def _failure(ended: Ended, folder: Path) -> str:
    """Return how a command failed, as a phrase."""
    if ended.timed_out:
        return f"still running after {ended.seconds:.0f} s"
    how = f"killed by {_signal(ended.code)}" if ended.code < 0 else f"exit {ended.code}"
    return f"{how}: {_line(ended.last, folder)}" if ended.last else how


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
