"""One benchmark run: every format and every way of serving, on the same images, each figure kept as it comes."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfship.benchmarks.harness.checkpoint import Journal
from tfship.benchmarks.harness.server_process import Addresses
from tfship.benchmarks.harness.timer import QUANTILES
from tfship.benchmarks.suite import result_record, serving_backends
from tfship.benchmarks.suite.measured_model import Bench, Options
from tfship.benchmarks.suite.model_selection import ExportedModel
from tfship.benchmarks.suite.modes import Mode
from tfship.benchmarks.suite.plan import Plan
from tfship.benchmarks.suite.serving_backends import Backend
from tfship.benchmarks.suite.system_under_test import REST_BASE64, Subject, in_process, served
from tfship.serving.server.settings import cores
from tfship.train.common import environment, tensorflow_loader
from tfship.train.common.errors import TargetError
from tfship.train.common.files import write_bytes
from tfship.train.common.progress import Progress

__all__ = ["RESULTS", "SCHEMA", "rows", "run"]

RESULTS = "results.json"

# Counted up when a field of the result file changes its meaning.
SCHEMA = 3

_NO_BYTES = "a TFLite file has no signature that takes encoded pictures"
_QUICK = "left out by --quick"


def run(
    models: Sequence[ExportedModel],
    mode: Mode,
    options: Options,
    out: Path,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the models, write `out`/results.json and return what it holds.

    A run that was interrupted goes on where it was, if the models, the data, the machine and what was asked for are
    the same. Raises TargetError if a server can't be started or dies, with its last words; what was measured is kept.
    """
    models = [each.limited(mode.images) for each in models]
    (evaluated,) = {each.images.data["sha256"]: each.images.data for each in models}.values()
    unavailable = serving_backends.unavailable() if mode.tensorflow else _QUICK
    servers = [
        each
        for each in serving_backends.SERVERS
        if (mode.tensorflow or not each.tensorflow)
        and not (each is serving_backends.OFFICIAL and unavailable)
    ]
    journal = Journal(out / "partial", _what(models, mode, options, [each.name for each in servers]))
    if journal.resumed:
        say(f"going on with a run that was interrupted: {len(journal):,} figures are there already")
    try:
        with _told(models, mode, servers) as told:
            measured = {
                each.name: _measure(each, mode, options, servers, unavailable, journal, told)
                for each in models
            }
    except BaseException:
        say(f"{len(journal):,} figures are kept in {journal.folder}; the same command goes on from there")
        raise
    results = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "resumed": journal.resumed,
        "mode": mode.name,
        "environment": environment.describe(),
        "threads": _threads(mode),
        "bound_ms": options.bound_ms,
        "quantiles": list(QUANTILES),
        "data": evaluated,
        "models": measured,
    }
    # Without indentation, which would more than double it.
    write_bytes(out / RESULTS, (json.dumps(results, allow_nan=False) + "\n").encode())
    journal.remove()
    return results


def _what(
    models: Sequence[ExportedModel], mode: Mode, options: Options, servers: Sequence[str]
) -> dict[str, Any]:
    """Return everything that decides what is measured."""
    return {
        "schema": SCHEMA,
        "mode": asdict(mode),
        "options": asdict(options),
        "servers": servers,
        "environment": environment.describe(),
        "models": [
            {
                "version": str(each.version.resolve()),
                "files": each.card.files,
                "keras": each.keras is not None,
                "data": each.images.data["sha256"],
            }
            for each in models
        ],
    }


def _threads(mode: Mode) -> list[int]:
    return sorted({1, cores()}) if mode.variants else [1]


@contextlib.contextmanager
def _told(
    models: Sequence[ExportedModel], mode: Mode, servers: Sequence[Backend]
) -> Iterator[Callable[[str, str, str], None]]:
    """Yield what is told the model, the stage and the row that was just measured."""
    nowhere = Addresses("127.0.0.1:1", "127.0.0.1:1")
    plans = {
        each.name: Plan(mode, rows(each, mode, dict.fromkeys(servers, nowhere)), len(each.images.pixels))
        for each in models
    }
    lock = threading.Lock()
    total, done, shown = sum(each.total for each in plans.values()), 0.0, 0
    with Progress("benchmark", round(total), "s of work") as progress:

        def told(model: str, stage: str, row: str) -> None:
            nonlocal done, shown
            with lock:
                done += plans[model].take(stage, row)
                progress.advance(int(done) - shown, f"{model}: {stage}: {row}")
                shown = int(done)

        yield told


def rows(model: ExportedModel, mode: Mode, running: Mapping[Backend, Addresses]) -> list[Subject]:
    """Return what is measured of a model: in this process, and behind the servers that run."""
    found = in_process(
        model.version, model.card, model.contract, model.keras if mode.tensorflow else None, _threads(mode),
        variants=mode.variants, tensorflow=mode.tensorflow,
    )  # fmt: skip
    for server, addresses in running.items():
        found += served(
            server.name, addresses, model.version, model.card, model.contract, server.format(model.card)
        )
    return found


def _measure(
    model: ExportedModel,
    mode: Mode,
    options: Options,
    servers: Sequence[Backend],
    unavailable: str | None,
    journal: Journal,
    told: Callable[[str, str, str], None],
) -> dict[str, Any]:
    """Measure one model, while its servers run."""
    if mode.tensorflow:
        tensorflow_loader.tensorflow()  # now, so that no other figure holds it
    with contextlib.ExitStack() as stack:
        running = {each: stack.enter_context(each.start(model.models, model.name)) for each in servers}
        subjects = rows(model, mode, {each: found.addresses for each, found in running.items()})
        bench = Bench(
            model.version, model.card, model.contract, model.keras, subjects,
            {each.name: found for each, found in running.items()}, model.images, mode, options, journal,
            lambda stage, row: told(model.name, stage, row),
        )  # fmt: skip
        try:
            return result_record.measure(bench, _absent(model, mode, unavailable))
        except TargetError:
            # The server's own last words say more than that nothing answers.
            for found in running.values():
                found.check()
            raise


def _absent(model: ExportedModel, mode: Mode, unavailable: str | None) -> dict[str, str]:
    """Return which rows aren't measured, and why."""
    absent = dict(model.card.unconverted)
    if not mode.tensorflow:
        absent |= dict.fromkeys(("savedmodel", "keras", "embedded SavedModel"), _QUICK)
    elif model.keras is None:
        absent["keras"] = f"{model.name}.keras isn't there, or isn't the one that was exported"
    absent[f"{serving_backends.EMBEDDED_TFLITE.name}, {REST_BASE64}"] = _NO_BYTES
    if unavailable:
        absent[serving_backends.OFFICIAL.name] = unavailable
    return absent
