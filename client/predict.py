"""Ask a model which digit a picture shows.

python client/predict.py digit.png                 over REST, from a server on this machine
python client/predict.py --target grpc a.png scans/ several pictures and folders, over gRPC
python client/predict.py --target tflite digit.png no server: a TFLite file in this process
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import arguments as flags
from client import image
from client.binding import ENCODED, PIXELS, Binding
from client.targets import open_target
from export.contract import Contract
from train import cli
from train.errors import DataError

__all__ = ["main"]

# Small enough for any server's message limit, large enough that a folder doesn't wait on round trips.
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the pictures, print a line for each, return the exit code."""
    arguments = _parser().parse_args(argv)
    choice = flags.choice(arguments)
    paths = list(_expand(arguments.images))
    opened = open_target(choice)
    bad = 0
    try:
        for start in range(0, len(paths), _BATCH):
            readable: list[Path] = []
            rows: list[Any] = []
            for path in paths[start : start + _BATCH]:
                try:
                    rows.append(_row(path, opened.contract, opened.binding))
                    readable.append(path)
                except DataError as error:
                    # One bad picture must not cost the others their answer.
                    bad += 1
                    print(f"error: {error}", file=sys.stderr)  # noqa: T201
            if rows:
                for path, row in zip(readable, opened.predict(_stacked(rows)), strict=True):
                    ranked = _ranked(row, opened.contract.labels)
                    print(_json(path, ranked) if arguments.json else _line(path, ranked), flush=True)  # noqa: T201
    finally:
        opened.target.close()
    return DataError.exit_code if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("python client/predict.py", "Tell which digit each picture shows.")
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="picture files, or folders of them"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object per picture")
    flags.add_target(parser)
    flags.add_connection(parser)
    return parser


def _row(path: Path, contract: Contract, binding: Binding) -> Any:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    if binding.dtype == ENCODED:
        return data
    pixels = image.pixels(data, contract, str(path))
    return pixels if binding.dtype == PIXELS else contract.scale(pixels[np.newaxis])[0].astype(binding.dtype)


def _stacked(rows: list[Any]) -> NDArray[Any]:
    return np.array(rows, object) if isinstance(rows[0], bytes) else np.stack(rows)


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
