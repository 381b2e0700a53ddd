"""Scoring by Ray Data: actors on a cluster, or on this machine, that each hold the model.

Ray gets descriptions of chunks, and returns their rows. A chunk whose worker has ended is scored again by another one.
If it ends again, its images are scored one by one, so that an image that ends its worker becomes a row with an error.
"""

import contextlib
import itertools
import logging
import os
import pickle
import re
import socket
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.client.score.chunks import Chunk
from tfship.client.score.scorer import Scored, Scorer, Seconds, failed
from tfship.client.targets.registry import Choice, open_target
from tfship.train.common import cli, interruption
from tfship.train.common.errors import ArtifactError, TargetError, TfshipError, Unreachable, UsageError
from tfship.train.common.files import sha256

__all__ = ["WorkerModel", "connected", "score"]

# Chunks that are described to Ray at a time: descriptions occupy memory until they are scored.
_WINDOW = 4096
# Times that a chunk, and then a single image, is given to a worker that ends.
_ATTEMPTS = 2
# Chunks that wait at a worker, besides the one it scores.
_AHEAD = 1
_CONNECT_SECONDS = 5
# Ray's messages quote whole tracebacks, in colour.
_MOST_TEXT, _COLOUR = 400, re.compile(r"\x1b\[\d*m")
# For the descriptions and rows of a few hundred chunks. Ray would reserve 30 % of the memory.
_STORE_BYTES = 256 << 20


@dataclass(frozen=True)
class WorkerModel:
    """The model that each worker opens; see `Scorer` for `top` and `kind`.

    Where `digest` isn't empty, the file that `choice` names must have this sha256 on each machine. Relative paths of
    images are those of `folder`.
    """

    choice: Choice
    digest: str
    top: int
    kind: str
    folder: str


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[int]:
    """Connect to the cluster at `address`, or start one on this machine, and yield the number of workers.

    By default that is the number of the cluster's processors. Raises Unreachable if there is no cluster.
    """
    if address is not None:
        _check_reachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What it will be by default: without it, Ray warns.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with interruption.loading():
        import ray
        import ray.data

    # Ray prints messages about workers that end; `score` reports them in its own words.
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            with interruption.held_back():
                if address is None:
                    own = {
                        "num_cpus": workers,
                        "object_store_memory": _STORE_BYTES,
                        "include_dashboard": False,
                    }
                    ray.init("local", **own, **common)
                else:
                    ray.init(address, **common)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "Ray doesn't start" if address is None else f"--ray-address {address}"
            raise Unreachable(f"{where}: {cli.one_line(error)}") from None
        stack.callback(ray.shutdown)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # The chunks of a worker that has ended are left out, and `score` repeats them.
        context.max_errored_blocks = -1
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))


def _check_reachable(address: str) -> None:
    """Raise Unreachable unless something listens at the address: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--ray-address {address}: expected HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise Unreachable(
            f"--ray-address {address}: no connection ({cli.one_line(error)}); start the cluster by `ray start --head`"
        ) from None


def score(
    work: Iterable[tuple[int, Chunk]], model: WorkerModel, workers: int
) -> Generator[Scored, None, None]:
    """Score numbered chunks by `workers` actors and yield the results in the order in which they end.

    Raises what `Scorer.score` does, ArtifactError if a machine has no such model, and Unreachable if Ray fails.
    """
    numbered = iter(work)
    while window := dict(itertools.islice(numbered, _WINDOW)):
        for attempt in range(_ATTEMPTS):
            for number, table, seconds in _pass(window, model, workers, 1 + _AHEAD):
                # Ray may repeat a task whose result is lost with a machine.
                if window.pop(number, None) is not None:
                    yield Scored(number, table, seconds)
            if window and attempt == 0:
                cli.say(f"score: a worker has ended; scoring its {len(window)} chunks again")
        for number, chunk in window.items():
            yield _one_by_one(number, chunk, model, workers)


def _one_by_one(number: int, chunk: Chunk, model: WorkerModel, workers: int) -> Scored:
    """Score the images of a chunk apart from each other. An image that ends its worker becomes a row with an error."""
    import pyarrow as pa

    images = {row: chunk.single(row) for row in range(chunk.rows)}
    lost: dict[int, Chunk] = dict(images)
    tables: dict[int, Any] = {}
    for _ in range(_ATTEMPTS):
        # One at a time for each worker, since one that ends takes along what waits for it.
        tables |= {row: table for row, table, _ in _pass(lost, model, workers, 1)}
        lost = {row: each for row, each in lost.items() if row not in tables}
    for row, each in lost.items():
        tables[row] = failed(
            each, f"ended its worker {_ATTEMPTS} times; expected an image that can be decoded"
        )
    return Scored(number, pa.concat_tables([tables[row] for row in images]), Seconds())


def _pass(
    chunks: dict[int, Any], model: WorkerModel, workers: int, at_once: int
) -> Iterator[tuple[int, Any, Seconds]]:
    """Yield number, table and seconds of each chunk whose worker hasn't ended."""
    if not chunks:
        return
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.exceptions import RayError
    from ray.util.annotations import RayDeprecationWarning

    described = [{"work": pickle.dumps(each)} for each in chunks.items()]
    pool = ActorPoolStrategy(size=min(workers, len(chunks)), max_tasks_in_flight_per_actor=at_once)
    try:
        data = ray.data.from_items(described, override_num_blocks=len(described))
        with warnings.catch_warnings():
            # These parameters have no successors yet; pyproject.toml excludes the version that removes them.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            data = data.map_batches(
                _Worker,
                fn_constructor_args=(pickle.dumps(model),),
                batch_size=None,
                compute=pool,
                num_cpus=1,
                max_restarts=-1,
                # By default, Ray repeats a chunk that ends its worker for ever, and waits for a lost machine.
                max_task_retries=0,
            )
        iterator = iter(data.iter_batches(batch_size=None, prefetch_batches=0))
        with interruption.waiting(), _without_stderr():
            batch = next(iterator, None)
        while batch is not None:
            for packed in batch["result"]:
                result = pickle.loads(packed)  # noqa: S301 - of our own workers
                if isinstance(result, TfshipError):
                    raise result
                yield result
            with interruption.waiting():
                batch = next(iterator, None)
    except RayError as error:
        text = cli.one_line(_COLOUR.sub("", str(error)))
        raise Unreachable(f"Ray: {text[:_MOST_TEXT]}; is tfship installed on each machine?") from error


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what is written to stderr: when actors start, Ray's native code prints advice for its developers."""
    original, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(nowhere)


class _Worker:
    """An actor: a model that scores chunks. Errors are results, since Ray would take them for failures to repeat."""

    def __init__(self, packed: bytes) -> None:
        self._error: TfshipError | None = None
        model: WorkerModel = pickle.loads(packed)  # noqa: S301 - of the driver
        try:
            if Path(model.folder).is_dir():
                os.chdir(model.folder)
            path = Path(model.choice.path)
            if model.digest and (not path.is_file() or sha256(path) != model.digest):
                raise ArtifactError(
                    f"{path}: not the same file on each machine of the cluster; copy the models there"
                )
            self._scorer = Scorer(open_target(model.choice), model.top, model.kind)
        except TfshipError as error:
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(self._scored(work)) for work in batch["work"]]}

    def _scored(self, work: bytes) -> tuple[int, Any, Seconds] | TfshipError:
        if self._error is not None:
            return self._error
        number, chunk = pickle.loads(work)  # noqa: S301 - of the driver
        try:
            scored = self._scorer.score(number, chunk)
        except TfshipError as error:
            return error
        except Exception as error:  # noqa: BLE001 - reported by the driver
            return TargetError(f"a worker failed: {type(error).__name__}: {error}")
        return scored.number, scored.table, scored.seconds
