"""One model, measured in a process of its own: what loading it takes, its first inference, and memory.

In a process that has run other models, the allocator's memory is theirs, and the runtime's own first steps have been
taken. So `probe` starts `python -m tfship.benchmarks.suite.model_probe`, which imports the runtime before its clock
runs: its start is the same for every model, and would hide what they differ by.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tfship.benchmarks.harness import process_info
from tfship.export.runtimes.protocol import Classifier, Target
from tfship.train.common import cli, interruption
from tfship.train.common.errors import TargetError, UsageError
from tfship.train.common.tensorflow_loader import quiet, tensorflow

__all__ = ["Kind", "Probe", "main", "probe"]

Kind = Literal["tflite", "savedmodel", "keras"]

# TensorFlow takes its time to optimise a SavedModel for each of its signatures.
_PATIENCE_SECONDS = 300.0
# After the first, so that the peak has what a running model needs.
_PREDICTIONS = 20


@dataclass(frozen=True)
class Probe:
    """What was measured: milliseconds of loading and of the first inference, on one image; bytes of resident memory.

    `runtime_bytes` is the process with its runtime imported and no model, `peak_bytes` the largest that it was until
    the end, some predictions later. Both are None where there is no /proc: they can be measured on Linux only.
    """

    load_ms: float
    first_ms: float
    runtime_bytes: int | None
    peak_bytes: int | None


def probe(
    kind: Kind, path: Path, shape: Sequence[int], *, threads: int | None = None, xnnpack: bool = True
) -> Probe:
    """Measure a TFLite file, a SavedModel's directory or a `.keras` file in a new process, its files cached.

    `shape` is an image's, H, W, C. `threads` are those of an inference (None: the runtime's own choice, which is the
    only one for Keras), and `xnnpack` is for TFLite. Raises TargetError with the process's last words if it fails.
    """
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.read_bytes()
    command = [
        sys.executable, "-m", "tfship.benchmarks.suite.model_probe", kind, str(path.resolve()), *map(str, shape),
        *([] if threads is None else [f"--threads={threads}"]), *([] if xnnpack else ["--no-xnnpack"]),
    ]  # fmt: skip
    try:
        with interruption.waiting():
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_SECONDS,
            )
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{path}: a process that loads it hasn't ended after {_PATIENCE_SECONDS:.0f} s"
        ) from None
    if done.returncode:
        words = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise TargetError(
            f"{path}: a process that loads it ended with exit code {done.returncode}: {words or 'it said nothing'}"
        )
    return Probe(**json.loads(done.stdout))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one model in this process, and print the figures as JSON."""
    parser = cli.parser(
        "python -m tfship.benchmarks.suite.model_probe",
        "Load a model, run it, print times and memory as JSON.",
    )
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("path", type=Path, help="a TFLite file, a SavedModel's directory or a .keras file")
    parser.add_argument("shape", type=cli.count, nargs=3, help="an image's height, width and channels")
    parser.add_argument(
        "--threads", type=cli.count, help="of an inference (the runtime's own choice if not given)"
    )
    parser.add_argument("--no-xnnpack", action="store_true", help="TFLite's own kernels instead")
    arguments = parser.parse_args(argv)
    if arguments.threads and arguments.kind == "keras":
        raise UsageError("--threads with keras: TensorFlow chooses them when it starts; leave it out")
    if arguments.no_xnnpack and arguments.kind != "tflite":
        raise UsageError(f"--no-xnnpack with {arguments.kind}: XNNPACK runs TFLite files only; leave it out")
    load = _LOADERS[arguments.kind](arguments.path, arguments.threads, not arguments.no_xnnpack)
    image = np.random.default_rng(0).random((1, *arguments.shape), np.float32)
    with quiet():  # LiteRT announces its delegate
        figures = _measure(load, image)
    print(json.dumps(asdict(figures)))  # noqa: T201
    return 0


def _measure(load: Callable[[], Target], image: NDArray[np.float32]) -> Probe:
    pid = os.getpid()
    counted = process_info.AVAILABLE
    runtime = process_info.footprint(pid).resident if counted else None
    start = time.perf_counter()
    target = load()
    loaded = time.perf_counter()
    target.predict(image)
    first = time.perf_counter()
    for _ in range(_PREDICTIONS):
        target.predict(image)
    return Probe(
        load_ms=round((loaded - start) * 1e3, 3),
        first_ms=round((first - loaded) * 1e3, 3),
        runtime_bytes=runtime,
        peak_bytes=process_info.peak(pid) if counted else None,
    )


# Each imports all that loading takes, and returns what loads.
def _tflite(path: Path, threads: int | None, xnnpack: bool) -> Callable[[], Target]:
    from tfship.export.runtimes.litert import LiteRT

    return lambda: Classifier(LiteRT(path, threads or 1, xnnpack=xnnpack), str(path))


def _savedmodel(path: Path, threads: int | None, _: bool) -> Callable[[], Target]:
    from tfship.export.runtimes.saved_model import SavedModel

    tensorflow()
    return lambda: Classifier(SavedModel(path, threads or 0), str(path))


def _keras(path: Path, _threads: int | None, _xnnpack: bool) -> Callable[[], Target]:
    tensorflow()
    import keras  # noqa: F401

    from tfship.client.targets.keras import Keras

    return lambda: Keras(path)


_LOADERS = {"tflite": _tflite, "savedmodel": _savedmodel, "keras": _keras}


if __name__ == "__main__":
    sys.exit(cli.run(main))
