"""Load time, first inference and memory of one model, measured in a new process.

In a process that has run other models, the allocator holds their memory and the runtime is initialised. So `probe`
starts `python -m tfship.benchmarks.suite.model_probe`. It imports the runtime before the clock starts: this takes the
same time for every model and would hide the differences.
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

from tfship.benchmarks.harness import captured_process, process_info
from tfship.benchmarks.harness.captured_process import last_lines
from tfship.export.runtimes.protocol import Classifier, Target
from tfship.train.common import cli
from tfship.train.common.errors import TargetError, UsageError
from tfship.train.common.tensorflow_loader import quiet, tensorflow

__all__ = ["Kind", "Probe", "main", "probe"]

Kind = Literal["tflite", "savedmodel", "keras"]

# TensorFlow takes long to optimise a SavedModel for each of its signatures.
_TIMEOUT_SECONDS = 300.0
# Predictions after the first one, so that the peak includes the memory of a running model.
_PREDICTIONS = 20


@dataclass(frozen=True)
class Probe:
    """Milliseconds of loading and of the first inference, on one image; bytes of resident memory.

    `runtime_bytes` is measured with the runtime imported and no model. `peak_bytes` is the peak, including a few
    predictions. Both are None without /proc: they can be measured on Linux only.
    """

    load_ms: float
    first_ms: float
    runtime_bytes: int | None
    peak_bytes: int | None


def probe(
    kind: Kind, path: Path, shape: Sequence[int], *, threads: int | None = None, xnnpack: bool = True
) -> Probe:
    """Measure a TFLite file, a SavedModel's directory or a `.keras` file in a new process, with its files cached.

    `shape` is the shape of an image, H, W, C. `threads` is the number of threads for an inference (None: the runtime's
    default, the only choice for Keras). `xnnpack` applies to TFLite. Raises TargetError, with the process's last
    output, if it fails.
    """
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.read_bytes()
    command = [
        sys.executable, "-m", "tfship.benchmarks.suite.model_probe", kind, str(path.resolve()), *map(str, shape),
        *([] if threads is None else [f"--threads={threads}"]), *([] if xnnpack else ["--no-xnnpack"]),
    ]  # fmt: skip
    try:
        done = captured_process.run(command, _TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        raise TargetError(
            f"{path}: the process that loads it is still running after {_TIMEOUT_SECONDS:.0f} s"
        ) from None
    if done.returncode:
        raise TargetError(
            f"{path}: the process that loads it ended with exit code {done.returncode}: {last_lines(done.stderr)}"
        )
    return Probe(**json.loads(done.stdout))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one model in this process, and print the figures as JSON."""
    parser = cli.parser(
        "python -m tfship.benchmarks.suite.model_probe",
        "Load a model, run it, and print times and memory as JSON.",
    )
    parser.add_argument("kind", choices=get_args(Kind))
    parser.add_argument("path", type=Path, help="a TFLite file, a SavedModel's directory or a .keras file")
    parser.add_argument("shape", type=cli.count, nargs=3, help="an image's height, width and channels")
    parser.add_argument(
        "--threads", type=cli.count, help="threads for an inference (default: the runtime's choice)"
    )
    parser.add_argument("--no-xnnpack", action="store_true", help="use TFLite's own kernels")
    arguments = parser.parse_args(argv)
    if arguments.threads and arguments.kind == "keras":
        raise UsageError("--threads with keras: TensorFlow chooses the number itself; remove --threads")
    if arguments.no_xnnpack and arguments.kind != "tflite":
        raise UsageError(
            f"--no-xnnpack with {arguments.kind}: XNNPACK runs TFLite files only; remove --no-xnnpack"
        )
    load = _LOADERS[arguments.kind](arguments.path, arguments.threads, not arguments.no_xnnpack)
    # Whole numbers: a model whose input is pixels from 0 to 255 refuses fractions.
    image = np.random.default_rng(0).integers(0, 2, (1, *arguments.shape)).astype(np.float32)
    with quiet():  # LiteRT logs its delegate
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


# Each imports the runtime and returns a function that loads the model.
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
