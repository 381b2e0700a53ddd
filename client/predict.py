"""Ask a model which digit a picture shows.

python client/predict.py digit.png                 over REST, from a server on this machine
python client/predict.py --grpc a.png b.jpg scans/ several pictures and folders, over gRPC
python client/predict.py --local digit.png         no server: a TFLite file in this process
python client/predict.py --json digit.png          JSON, a line per picture
"""

if __name__ == "__main__" and not __package__:
    # Run as a script, Python looks for modules beside it; they are imported from the repository's root.
    import runpy
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    runpy.run_module("client.predict", run_name="__main__", alter_sys=True)
    sys.exit()

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client import COMMAND, image
from client.connection import GRPC_PORT, REST_PORT, Connection, Servable
from export import contract as contracts
from export import formats
from export.formats import FORMATS, REFERENCE
from export.runtime import Target
from train import cli
from train.cards import RELEASED
from train.errors import DataError, UsageError

__all__ = ["main"]

# Small enough for any server's message limit, large enough that a folder doesn't wait on round trips.
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the pictures, print a line for each, return the exit code."""
    arguments = _parser().parse_args(argv)
    paths = list(_expand(arguments.images))
    contract = _contract(arguments)
    target = _target(arguments)
    bad = 0
    try:
        for start in range(0, len(paths), _BATCH):
            readable: list[Path] = []
            tensors: list[NDArray[np.float32]] = []
            for path in paths[start : start + _BATCH]:
                try:
                    tensors.append(image.from_file(path, contract))
                    readable.append(path)
                except DataError as error:
                    # One bad picture must not cost the others their answer.
                    bad += 1
                    print(f"error: {error}", file=sys.stderr)  # noqa: T201
            if tensors:
                for path, row in zip(readable, target.predict(np.stack(tensors)), strict=True):
                    ranked = _ranked(row, contract.labels)
                    print(_json(path, ranked) if arguments.json else _line(path, ranked), flush=True)  # noqa: T201
    finally:
        target.close()
    return DataError.exit_code if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(COMMAND, "Tell which digit each picture shows.")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="picture files, or folders of them"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--rest", action="store_true", help="ask a server over REST (this is the default)")
    how.add_argument("--grpc", action="store_true", help="ask a server over gRPC")
    how.add_argument("--local", action="store_true", help="no server: run a TFLite file in this process")
    parser.add_argument("--server", metavar="HOST:PORT", help="(default: localhost:8501, with --grpc :8500)")
    parser.add_argument("--model", default="cnn", help="the servable's name")
    parser.add_argument("--version", type=int, metavar="N", help="of the servable (default: the latest)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="for a server's answer"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help=f"with --local: which TFLite format of the model (default: {REFERENCE}, or {formats.RELEASED} where "
        "only the released models are there)",
    )
    parser.add_argument("--tflite", type=Path, metavar="FILE", help="with --local: this file instead")
    parser.add_argument(
        "--models", type=Path, default=Path("models"), help="with --local: the folder of models"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object per picture")
    return parser


def _expand(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(each for each in path.iterdir() if each.suffix.lower() in image.SUFFIXES)
        if not inside:
            raise DataError(
                f"{path}: no pictures in this folder; looked for {', '.join(sorted(image.SUFFIXES))}"
            )
        yield from inside


def _target(arguments: argparse.Namespace) -> Target:
    """Return what answers; each kind's imports are paid for only when it is used."""
    if arguments.local:
        return _local(arguments)
    servable = Servable(arguments.model, arguments.version)
    if arguments.grpc:
        from client.grpc import Grpc

        server = arguments.server or f"localhost:{GRPC_PORT}"
        return Grpc(Connection(server, timeout=arguments.timeout), servable)
    from client.rest import Rest

    return Rest(Connection(arguments.server or f"localhost:{REST_PORT}", timeout=arguments.timeout), servable)


def _local(arguments: argparse.Namespace) -> Target:
    try:
        from export.litert import LiteRT
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--local runs a TFLite file with LiteRT, which isn't installed here ({error}): pip install ai-edge-litert"
        ) from error
    from export.runtime import Classifier
    from train.backend import quiet

    path = arguments.tflite
    if path is None:
        path = _exported(arguments)
    with quiet():  # LiteRT announces its delegate
        return Classifier(LiteRT(path), str(path))


def _exported(arguments: argparse.Namespace) -> Path:
    """Return the TFLite file that was asked for: of an exported version, or else of the released model."""
    from export import store

    models: Path = arguments.models
    base: Path = models / arguments.model
    format_name = arguments.format or REFERENCE
    if arguments.version is not None:
        return base / str(arguments.version) / FORMATS[format_name].file
    released = models / RELEASED / f"{arguments.model}.{arguments.format or formats.RELEASED}.tflite"
    if released.is_file() and not store.versions(base):
        cli.say(f"{base} holds no version, so the released model answers: {released}")
        return released
    return store.latest(base) / FORMATS[format_name].file


def _contract(arguments: argparse.Namespace) -> contracts.Contract:
    """Return what the model takes: as its version says where one is at hand, else what the digit networks take."""
    from export import store

    path: Path | None = arguments.tflite if arguments.local else None
    if path is not None:
        folder = next((each for each in path.parents if (each / contracts.CONTRACT).is_file()), None)
    else:
        found = store.versions(arguments.models / arguments.model)
        folder = found.get(arguments.version or max(found, default=0))
    if folder is None or not (folder / contracts.CONTRACT).is_file():
        return contracts.digits(arguments.model)
    return contracts.read(folder)


def _ranked(row: NDArray[np.float32], labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return (label, probability) pairs, most probable first; numbers where the classes have no names."""
    names = labels if len(row) == len(labels) else tuple(map(str, range(len(row))))
    return [(names[index], float(row[index])) for index in np.argsort(-row, kind="stable")]


def _line(path: Path, ranked: list[tuple[str, float]]) -> str:
    (label, probability), (second, less), *_ = ranked
    return f"{path}: {label} ({probability:.1%}), then {second} ({less:.1%})"


def _json(path: Path, ranked: list[tuple[str, float]]) -> str:
    return json.dumps(
        {
            "image": str(path),
            "label": ranked[0][0],
            "probability": ranked[0][1],
            "runner_up": {"label": ranked[1][0], "probability": ranked[1][1]},
            "probabilities": dict(sorted(ranked)),
        }
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
