"""A job of batch scoring: its model, its images, the engine that scores them, and the parts that it writes."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tfship.client.score import local_engine
from tfship.client.score.inputs import Inputs
from tfship.client.score.parts import Part, Parts, folder_of, parts_of
from tfship.client.score.scorer import Scored, Scorer, Seconds
from tfship.client.targets.registry import Choice, Opened, open_target
from tfship.export.preprocessing.input_contract import CONTRACT
from tfship.train.common import cli
from tfship.train.common.files import sha256
from tfship.train.common.progress import Progress

__all__ = ["LOCAL", "RAY", "JobSettings", "JobSummary", "Steady", "run"]

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class JobSettings:
    """How a job is done: `top` classes per image, `part_rows` images per part, and the engine.

    `workers` is the number of threads or actors, None for one per processor. `address` is the Ray cluster's, None to
    start one on this machine. `restart` discards the finished parts.
    """

    top: int = 5
    part_rows: int = 10_000
    engine: str = LOCAL
    workers: int | None = None
    address: str | None = None
    restart: bool = False


@dataclass(frozen=True)
class Steady:
    """What follows the first result of the engine: `images` scored in `seconds`, and this process's processor time.

    The engine's start isn't part of it.
    """

    images: int = 0
    seconds: float = 0.0
    processor: float = 0.0

    def since(self, first: "Steady") -> "Steady":
        """Return the difference from an earlier one."""
        return Steady(
            self.images - first.images, self.seconds - first.seconds, self.processor - first.processor
        )


@dataclass(frozen=True)
class JobSummary:
    """The outcome of a job: `images` and `errors` are rows of `out`, and `resumed` of them were finished before.

    `seconds` is the duration, and `phases` the time of all workers by phase of scoring; `write` is that of the parts
    and their union.
    """

    out: str
    images: int
    errors: int
    resumed: int
    seconds: float
    phases: Seconds
    write: float
    steady: Steady

    def describe(self) -> dict[str, object]:
        """Return the object that `--json` prints."""
        phases = {**self.phases._asdict(), "write": self.write}
        return {
            "out": self.out, "images": self.images, "errors": self.errors, "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "images_per_second": round((self.images - self.resumed) / self.seconds, 2),
            "seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
            "steady": asdict(self.steady),
        }  # fmt: skip


def run(images: Inputs, choice: Choice, out: Path, settings: JobSettings) -> JobSummary:
    """Score images by a model in this process or on a Ray cluster, and write the Parquet file `out`.

    Goes on from the parts that an interrupted job of the same images, model and settings has left. Raises TfshipError.
    """
    begin = time.perf_counter()
    opened = open_target(choice)
    # Workers, and a job that goes on, must not use a version that is exported meanwhile.
    choice = _exact(choice, opened)
    about = _about(choice, opened, settings)
    job = {
        **about, **images.options, "images": images.rows, "inputs": images.digest, "part_rows": settings.part_rows,
    }  # fmt: skip
    parts = Parts(out, job, parts_of(images.chunks, settings.part_rows), restart=settings.restart)
    unfinished = parts.unfinished()
    resumed = images.rows - sum(each.rows for each in unfinished)
    if resumed:
        cli.say(f"score: going on from {resumed:,} of {images.rows:,} images, finished in {folder_of(out)}")
    scorer = Scorer(opened, settings.top, parts.kind)
    phases, write = Seconds(), 0.0
    with Progress("score", images.rows, "images", done=resumed) as progress:
        results = _scored(unfinished, scorer, parts, choice, settings)
        marks: list[Steady] = []
        with contextlib.closing(_by_part(unfinished, results, progress, marks)) as finished:
            for part, scored in finished:
                start = time.perf_counter()
                parts.write(part, [each.table for each in scored])
                write += time.perf_counter() - start
                phases = Seconds(*map(sum, zip(phases, *(each.seconds for each in scored), strict=True)))
    if scorer.note:
        cli.say(scorer.note)
    start = time.perf_counter()
    rows, errors = parts.join(scorer.meaning, {**about, "scores": scorer.meaning})
    end = time.perf_counter()
    steady = marks[-1].since(marks[0]) if marks else Steady()
    return JobSummary(str(out), rows, errors, resumed, end - begin, phases, write + end - start, steady)


def _by_part(
    parts: Sequence[Part],
    results: Generator[Scored, None, None],
    progress: Progress,
    marks: list[Steady],
) -> Generator[tuple[Part, list[Scored]], None, None]:
    """Yield each part when all of its chunks are scored, with their results in order.

    Adds to `marks` the number of images, the time and the processor time at each result of the engine.
    """
    part_of = {number: part for part in parts for number in part.numbers}
    waiting: dict[int, Scored] = {}
    images = 0
    with contextlib.closing(results):
        for count, scored in enumerate(results):
            waiting[scored.number] = scored
            images += scored.table.num_rows
            if count:  # the first result isn't the engine's
                marks.append(Steady(images, time.perf_counter(), time.process_time()))
            progress.advance(scored.table.num_rows)
            part = part_of[scored.number]
            if all(number in waiting for number in part.numbers):
                yield part, [waiting.pop(number) for number in part.numbers]


def _scored(
    unfinished: Sequence[Part], scorer: Scorer, parts: Parts, choice: Choice, settings: JobSettings
) -> Generator[Scored, None, None]:
    """Yield the results of all chunks of the unfinished parts, in any order."""
    work = [pair for part in unfinished for pair in zip(part.numbers, part.chunks, strict=True)]
    remaining = iter(work)
    # The first scores decide for all workers what the numbers mean.
    for number, chunk in remaining:
        scored = scorer.score(number, chunk)
        if scorer.kind is not None:
            parts.settle(scorer.kind)
        yield scored
        if scorer.kind is not None:
            break
    left, kind = list(remaining), scorer.kind
    if not left or kind is None:
        return
    if settings.engine == LOCAL:
        count = min(settings.workers or _processors(), len(left))
        yield from local_engine.score(left, [scorer, *_others(scorer, choice, count - 1, settings)])
        return
    from tfship.client.score import ray_engine

    path = Path(choice.path)
    digest = sha256(path) if path.is_file() else ""
    model = ray_engine.WorkerModel(choice, digest, settings.top, kind, str(Path.cwd()))
    with ray_engine.connected(settings.address, settings.workers) as workers:
        yield from ray_engine.score(left, model, workers)


def _others(scorer: Scorer, choice: Choice, count: int, settings: JobSettings) -> Iterator[Scorer]:
    """Yield scorers for further threads: a TFLite interpreter runs one inference at a time, TensorFlow several."""
    for _ in range(count):
        opened = open_target(choice) if choice.kind.name == "tflite" else scorer.opened
        yield Scorer(opened, settings.top, scorer.kind)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _exact(choice: Choice, opened: Opened) -> Choice:
    """Return the choice of the file that was opened, by absolute paths."""
    return replace(
        choice,
        path=str(Path(opened.where).absolute()),
        models=choice.models.absolute(),
        contract=choice.contract and choice.contract.absolute(),
    )


def _about(choice: Choice, opened: Opened, settings: JobSettings) -> dict[str, Any]:
    """Return what decides the predictions: the model, the preparation and the settings; part of the result."""
    path = Path(choice.path)
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    contract = json.dumps(opened.contract.describe(), sort_keys=True).encode()
    return {
        "model": choice.servable.name,
        "version": next((int(each.name) for each in (path, *path.parents) if _is_version(each)), None),
        "target": choice.kind.name,
        "file": path.name,
        "sha256": sha256(*files),
        "signature": choice.servable.signature,
        "contract_sha256": hashlib.sha256(contract).hexdigest(),
        "top": settings.top,
        "tfship": version("tfship"),
    }


def _is_version(folder: Path) -> bool:
    return folder.name.isdecimal() and (folder / CONTRACT).is_file()
