"""The server's metrics and their page for Prometheus; `METRICS.md` lists them.

Metrics of TensorFlow Serving have the same names, labels and buckets, so that its dashboards work. Additional metrics
have the prefix `:tfship:`: timings of requests, requests in flight, loaded versions. Each worker counts separately
(`serving.metrics.shared_counters`), and the page of any worker shows the sums.
"""

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tfship.serving.metrics.exposition import CONTENT_TYPE, Family, lines
from tfship.serving.metrics.shared_counters import Tally, Worker
from tfship.train.common.errors import UsageError

__all__ = ["DEFAULT_PATH", "FAMILIES", "Metrics"]

# TensorFlow Serving's default, for a MonitoringConfig that enables Prometheus without a path.
DEFAULT_PATH = "/monitoring/prometheus/metrics"

# TensorFlow Serving's buckets: latencies from 10 µs to 20 minutes, its batching queue's in µs, numbers of examples.
_LATENCY = tuple(10 * 1.8**power for power in range(33))
_QUEUING = tuple(100 * 1.2**power for power in range(52))
_EXAMPLES = tuple(2.0**power for power in range(15))
_REQUEST = ("model_name", "API", "entrypoint")

# fmt: off
_COUNT = Family(
    ":tensorflow:serving:request_count", "counter", ("model_name", "status"), "Requests by final status.")
_TOTAL = Family(
    ":tensorflow:serving:request_latency", "histogram", _REQUEST, "Microseconds from arrival to response.", _LATENCY)
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
_VERSION_COUNT = Family(
    ":tfship:request_count", "counter", ("model_name", "version", "API", "entrypoint", "status"),
    "Requests by model version and final status.")
_QUEUE = Family(
    ":tfship:queue_latency", "histogram", _REQUEST, "Microseconds of waiting for a thread or a batch.", _LATENCY)
_DECODE = Family(
    ":tfship:decode_latency", "histogram", _REQUEST, "Microseconds from a request's bytes to tensors.", _LATENCY)
_ENCODE = Family(
    ":tfship:encode_latency", "histogram", _REQUEST, "Microseconds from tensors to a response's bytes.", _LATENCY)
_RECEIVED = Family(":tfship:request_bytes", "counter", _REQUEST, "Bytes of requests, without headers.")
_SENT = Family(":tfship:response_bytes", "counter", _REQUEST, "Bytes of responses, without headers.")
_IN_FLIGHT = Family(
    ":tfship:requests_in_flight", "gauge", ("entrypoint",), "Requests that have arrived and have no response yet.")
_VERSIONS = Family(
    ":tfship:model_versions", "gauge", ("model_name", "state"),
    "Versions in this state, counted once per worker.")
_WORKERS = Family(":tfship:workers", "gauge", (), "Serving processes.")
# fmt: on

# All metrics, in the order of the page.
FAMILIES = (
    *(_COUNT, _TOTAL, _RUNTIME, _EXAMPLE_COUNTS, _EXAMPLE_TOTAL, _BATCHING),
    *(_VERSION_COUNT, _QUEUE, _DECODE, _ENCODE, _RECEIVED, _SENT, _IN_FLIGHT, _VERSIONS, _WORKERS),
)


class Metrics:
    """Counters of the server, and their page at `path`. Its methods may be called from any thread.

    With `folder`, in which each worker writes its counters, the page shows the sums of all workers. The object must
    then be created in the worker process. Raises UsageError for an invalid path, or for a directory that isn't
    writable.
    """

    def __init__(self, path: str = DEFAULT_PATH, folder: Path | None = None) -> None:
        if not path.startswith("/"):
            raise UsageError(
                f"prometheus_config: path is {path!r}; expected one that begins with /, such as {DEFAULT_PATH}"
            )
        self.path: str | None = path
        self._tally = Tally(folder)
        # Held while rows change.
        self._lock = threading.Lock()
        self._models: set[str] = set()
        self._flights: dict[str, _Flight] = {}
        self._count, self._total, self._runtime = map(self._series, (_COUNT, _TOTAL, _RUNTIME))
        self._version_count = self._series(_VERSION_COUNT)
        self._example_counts, self._example_total = map(self._series, (_EXAMPLE_COUNTS, _EXAMPLE_TOTAL))
        self._batching, self._queue = map(self._series, (_BATCHING, _QUEUE))
        self._decode, self._encode = map(self._series, (_DECODE, _ENCODE))
        self._received, self._sent = map(self._series, (_RECEIVED, _SENT))
        self._in_flight, self._versions = map(self._series, (_IN_FLIGHT, _VERSIONS))
        self._series(_WORKERS).add((), 1)
        # Autoscalers take a missing series for an error.
        for entrypoint in ("GRPC", "REST"):
            self._in_flight.add((entrypoint,), 0)

    @staticmethod
    def at(path: str | None, folder: Path | None = None) -> "Metrics":
        """Return metrics with a page at `path`; "" means the default path, None disables the metrics."""
        return Metrics.disabled() if path is None else Metrics(path or DEFAULT_PATH, folder)

    @staticmethod
    def disabled() -> "Metrics":
        """Return metrics that count nothing and have no page: `path` is None."""
        return _Disabled()

    def request(
        self,
        *,
        model: str,
        version: str = "",
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
        """Count a completed request.

        `model` is the name in the request, and `version` the version that it used, "" if none. `api` is Predict,
        Classify, Regress, MultiInference, or empty for others. `entrypoint` is GRPC or REST, `status` the name of a
        Code. `seconds` is the time from arrival to response. The times of the steps are None for steps that weren't
        reached: `queue` is the wait, `decode` and `encode` the conversion from and to bytes, and `inference` the time
        in `runtime`. `runtime` is TF1 for SavedModels, as in TensorFlow Serving, or TFLite. `received` and `sent` are
        numbers of bytes.
        """
        if model not in self._models:
            # Clients may send any number of names, and each series permanently uses memory here and in Prometheus.
            model = ""
        # In TensorFlow Serving's labels, API is the method for gRPC and the lowercase verb of the URL for REST.
        labels = (model, api.lower() if entrypoint == "REST" else api, entrypoint)
        with self._lock:
            self._count.add((model, status), 1)
            self._version_count.add((model, version, *labels[1:], status), 1)
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
        """Count a batch; `queued` are the seconds that each of its requests waited."""
        with self._lock:
            for seconds in queued:
                self._batching.observe((thread_pool,), seconds * 1e6)

    def in_flight(self, entrypoint: str) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that counts a request as in flight: `with metrics.in_flight("REST"): …`."""
        flight = self._flights.get(entrypoint)
        if flight is None:
            with self._lock:
                flight = self._flights[entrypoint] = _Flight(self._in_flight, entrypoint, self._lock)
        return flight

    def versions(self, model: str, states: Mapping[str, int]) -> None:
        """Set the numbers of versions of a configured `model` by state (names of ModelVersionStatus.State).

        `request` uses only the names set here as labels, and "" for all others.
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
        """Mark this worker as ended. Its counters stay on the pages of the others."""
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
    """A family's rows by label values; a row is created on first use."""

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
    """Context manager that counts the threads inside it."""

    def __init__(self, series: _Series, entrypoint: str, lock: threading.Lock) -> None:
        self._row, self._lock = series[(entrypoint,)], lock

    def __enter__(self) -> None:
        with self._lock:
            self._row[0] += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._row[0] -= 1


def _sum(family: Family, workers: Iterable[Worker]) -> dict[tuple[str, ...], Sequence[float]]:
    """Return the family's rows by label values, summed over the workers; gauges only over living ones."""
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
    """Yield the lines about memory, CPU time and files of each process, by their standard names."""
    # Imported on demand: it takes 50 ms, since it includes a web server.
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
