"""What the server counts, and the page on which Prometheus finds it; `METRICS.md` is the list.

TensorFlow Serving's names, labels and buckets, so that dashboards made for it go on working, and beside them, with
the prefix `:tfship:`, what it doesn't tell: where a request's time goes, what is in flight, what is loaded. Of
several workers each counts for itself (`serving.metrics.shared_counters`), and the page of any of them shows the sum.
"""

import contextlib
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tfship.serving.metrics.exposition import CONTENT_TYPE, Family, lines
from tfship.serving.metrics.shared_counters import Tally, Worker
from tfship.train.common.errors import UsageError

__all__ = ["DEFAULT_PATH", "FAMILIES", "FOLDER", "Metrics"]

# TensorFlow Serving's, where its MonitoringConfig enables Prometheus without a path.
DEFAULT_PATH = "/monitoring/prometheus/metrics"
# The environment variable with the directory in which the workers of one server count. Whoever starts them makes
# and removes it. prometheus_client's name, for the same thing.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"

# TensorFlow Serving's buckets: microseconds from 10 to 20 minutes, those of its batching queue, numbers of examples.
_LATENCY = tuple(10 * 1.8**power for power in range(33))
_QUEUING = tuple(100 * 1.2**power for power in range(52))
_EXAMPLES = tuple(2.0**power for power in range(15))
_REQUEST = ("model_name", "API", "entrypoint")

# fmt: off
_COUNT = Family(
    ":tensorflow:serving:request_count", "counter", ("model_name", "status"), "Requests by the status they ended in.")
_TOTAL = Family(
    ":tensorflow:serving:request_latency", "histogram", _REQUEST, "Microseconds from arrival to answer.", _LATENCY)
_RUNTIME = Family(
    ":tensorflow:serving:runtime_latency", "histogram", ("model_name", "API", "runtime"),
    "Microseconds in TensorFlow or TFLite.", _LATENCY)
_EXAMPLE_COUNTS = Family(
    ":tensorflow:serving:request_example_counts", "histogram", ("model",),
    "Examples in a Classify, Regress or MultiInference request.", _EXAMPLES)
_EXAMPLE_TOTAL = Family(
    ":tensorflow:serving:request_example_count_total", "counter", ("model",), "Examples in all these requests.")
_BATCHING = Family(
    ":tensorflow:serving:batching_session:queuing_latency", "histogram", ("thread_pool_name",),
    "Microseconds of waiting for a batch.", _QUEUING)
_QUEUE = Family(
    ":tfship:queue_latency", "histogram", _REQUEST, "Microseconds of waiting for a thread or a batch.", _LATENCY)
_DECODE = Family(
    ":tfship:decode_latency", "histogram", _REQUEST, "Microseconds from a request's bytes to tensors.", _LATENCY)
_ENCODE = Family(
    ":tfship:encode_latency", "histogram", _REQUEST, "Microseconds from tensors to an answer's bytes.", _LATENCY)
_RECEIVED = Family(":tfship:request_bytes", "counter", _REQUEST, "Bytes of requests, without headers.")
_SENT = Family(":tfship:response_bytes", "counter", _REQUEST, "Bytes of answers, without headers.")
_IN_FLIGHT = Family(
    ":tfship:requests_in_flight", "gauge", ("entrypoint",), "Requests that have arrived and aren't answered yet.")
_VERSIONS = Family(
    ":tfship:model_versions", "gauge", ("model_name", "state"),
    "Versions in this state, each counted once in every worker.")
_WORKERS = Family(":tfship:workers", "gauge", (), "Processes that serve.")
# fmt: on

# What the page shows, in its order.
FAMILIES = (
    *(_COUNT, _TOTAL, _RUNTIME, _EXAMPLE_COUNTS, _EXAMPLE_TOTAL, _BATCHING),
    *(_QUEUE, _DECODE, _ENCODE, _RECEIVED, _SENT, _IN_FLIGHT, _VERSIONS, _WORKERS),
)


class Metrics:
    """Counts what the server does, and tells it on a page at `path`. Its methods may be called from any thread.

    Where the environment variable FOLDER is set, the page is that of all workers; the object is then to be made in
    the worker itself, not before a fork. Raises UsageError for a path that can't be one, or a directory that can't
    be written to.
    """

    def __init__(self, path: str = DEFAULT_PATH) -> None:
        if not path.startswith("/"):
            raise UsageError(
                f"prometheus_config: path is {path!r}; expected one that begins with /, like {DEFAULT_PATH}"
            )
        self.path: str | None = path
        folder = os.environ.get(FOLDER)
        self._tally = Tally(Path(folder) if folder else None)
        # Held while anything is counted.
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._flights: dict[str, _Flight] = {}
        self._count, self._total, self._runtime = map(self._series, (_COUNT, _TOTAL, _RUNTIME))
        self._example_counts, self._example_total = map(self._series, (_EXAMPLE_COUNTS, _EXAMPLE_TOTAL))
        self._batching, self._queue = map(self._series, (_BATCHING, _QUEUE))
        self._decode, self._encode = map(self._series, (_DECODE, _ENCODE))
        self._received, self._sent = map(self._series, (_RECEIVED, _SENT))
        self._in_flight, self._versions = map(self._series, (_IN_FLIGHT, _VERSIONS))
        self._series(_WORKERS).add((), 1)

    @staticmethod
    def at(path: str | None) -> "Metrics":
        """Return metrics with a page at `path`, the default one if it is empty; if it is None, disabled ones."""
        return Metrics.disabled() if path is None else Metrics(path or DEFAULT_PATH)

    @staticmethod
    def disabled() -> "Metrics":
        """Return metrics that count nothing and have no page: `path` is None."""
        return _Disabled()

    def request(
        self,
        *,
        model: str,
        api: str,
        entrypoint: str,
        status: str,
        seconds: float,
        queue: float | None = None,
        decode: float | None = None,
        inference: float | None = None,
        encode: float | None = None,
        runtime: str = "",
        examples: int = 0,
        received: int = 0,
        sent: int = 0,
    ) -> None:
        """Count a request that has been answered.

        `model` as the request names it; `api` Predict, Classify, Regress, MultiInference, or empty for another;
        `entrypoint` GRPC or REST; `status` a Code's name. Seconds from arrival to answer, and of the steps that
        there were: `queue` until it was its turn; `decode` bytes to tensors; `inference` in `runtime`, TF1 for any
        SavedModel (as there) or TFLite; `encode` tensors to bytes. `received` and `sent`: bytes.
        """
        if model not in self._models:
            # A client may ask for a million names, and each series costs memory here and in Prometheus for ever.
            model = ""
        # In TensorFlow Serving's labels an API is a method by gRPC and a word of the URL by REST.
        labels = (model, api.lower() if entrypoint == "REST" else api, entrypoint)
        with self._lock:
            self._count.add((model, status), 1)
            self._received.add(labels, received)
            self._sent.add(labels, sent)
            if status != "OK":
                return
            self._total.observe(labels, seconds * 1e6)
            if queue is not None:
                self._queue.observe(labels, queue * 1e6)
            if decode is not None:
                self._decode.observe(labels, decode * 1e6)
            if inference is not None:
                self._runtime.observe((model, api, runtime), inference * 1e6)
            if encode is not None:
                self._encode.observe(labels, encode * 1e6)
            if examples:
                self._example_counts.observe((model,), examples)
                self._example_total.add((model,), examples)

    def batch(self, thread_pool: str, queued: Iterable[float]) -> None:
        """Count a batch's requests, each with the seconds that it waited for the others."""
        with self._lock:
            for seconds in queued:
                self._batching.observe((thread_pool,), seconds * 1e6)

    def in_flight(self, entrypoint: str) -> contextlib.AbstractContextManager[None]:
        """Return what counts a request as being in flight: `with metrics.in_flight("REST"): …`."""
        flight = self._flights.get(entrypoint)
        if flight is None:
            with self._lock:
                flight = self._flights[entrypoint] = _Flight(self._in_flight, entrypoint, self._lock)
        return flight

    def versions(self, model: str, states: Mapping[str, int]) -> None:
        """Set how many versions of a model in the config are in which state (ModelVersionStatus.State's names).

        Only what has been set here is a label of requests; all other names count as an empty one.
        """
        with self._lock:
            self._models.add(model)
            before = [state for name, state in self._versions if name == model]
            for state in {*before, *states}:
                self._versions[model, state][0] = states.get(state, 0)

    def page(self) -> tuple[bytes, str]:
        """Return the page and its content type."""
        workers = self._tally.workers()
        page = [line for family in FAMILIES for line in lines(family, _sum(family, workers))]
        page += _processes(worker.pid for worker in workers if worker.lives)
        return "\n".join([*page, ""]).encode(), CONTENT_TYPE

    def close(self) -> None:
        """Leave the workers. What this one has counted stays on the others' pages."""
        self._tally.close()

    def _series(self, family: Family) -> "_Series":
        return _Series(family, self._tally)


class _Disabled(Metrics):
    def __init__(self) -> None:
        self.path = None

    def request(self, **_: object) -> None:
        pass

    def batch(self, thread_pool: str, queued: Iterable[float]) -> None:
        pass

    def in_flight(self, entrypoint: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        return _NOTHING

    def versions(self, model: str, states: Mapping[str, int]) -> None:
        pass

    def page(self) -> tuple[bytes, str]:
        return b"", CONTENT_TYPE

    def close(self) -> None:
        pass


_NOTHING = contextlib.nullcontext()


class _Series(dict[tuple[str, ...], "memoryview[float]"]):
    """A family's rows by the values of its labels, each made when it is first asked for."""

    def __init__(self, family: Family, tally: Tally) -> None:
        super().__init__()
        self._family, self._tally = family, tally

    def __missing__(self, labels: tuple[str, ...]) -> "memoryview[float]":
        row = self[labels] = self._tally.row((self._family.name, *labels), self._family.width)
        return row

    def add(self, labels: tuple[str, ...], value: float) -> None:
        self[labels][0] += value

    def observe(self, labels: tuple[str, ...], value: float) -> None:
        self._family.observe(self[labels], value)


class _Flight(contextlib.AbstractContextManager[None]):
    """Any number of threads are inside at once."""

    def __init__(self, series: _Series, entrypoint: str, lock: threading.Lock) -> None:
        self._row, self._lock = series[(entrypoint,)], lock

    def __enter__(self) -> None:
        with self._lock:
            self._row[0] += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._row[0] -= 1


def _sum(family: Family, workers: Iterable[Worker]) -> dict[tuple[str, ...], Sequence[float]]:
    """Return the family's rows by the values of its labels; an ended worker's gauges no longer hold."""
    rows: dict[tuple[str, ...], Sequence[float]] = {}
    for worker in workers:
        if family.kind == "gauge" and not worker.lives:
            continue
        for (name, *labels), row in worker.rows.items():
            if name == family.name:
                key = tuple(labels)
                known = rows.get(key)
                rows[key] = [sum(pair) for pair in zip(known, row, strict=True)] if known else row
    return rows


def _processes(pids: Iterable[int]) -> Iterator[str]:
    """Return the lines about memory, time and files of each process, by the names that all exporters use."""
    # Brings a web server with it, 50 ms: only for those who look at the page.
    from prometheus_client.process_collector import ProcessCollector

    families: dict[str, Family] = {}
    rows: dict[str, dict[tuple[str, ...], Sequence[float]]] = {}
    for pid in pids:
        for metric in ProcessCollector(pid=functools.partial(str, pid), registry=None).collect():
            for sample in metric.samples:
                families[sample.name] = Family(sample.name, metric.type, ("pid",), metric.documentation)
                rows.setdefault(sample.name, {})[(str(pid),)] = [sample.value]
    for name, family in families.items():
        yield from lines(family, rows[name])
