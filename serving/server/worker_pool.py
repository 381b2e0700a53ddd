"""Pool of worker processes that acts as one `Host`: the workers share the ports and get the same calls.

Python runs one thread at a time, so that one process per core is needed to use all cores. A worker that dies is
replaced, while the others continue to serve.
"""

import concurrent.futures
import contextlib
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfship.serving.models.snapshot import ProcessDiedError, View
from tfship.serving.protos.messages import model_server_config_pb2
from tfship.serving.protos.status import Code, StatusError
from tfship.serving.server.rpc import ChannelClosed
from tfship.serving.server.settings import Settings
from tfship.serving.server.sockets import bound
from tfship.serving.server.worker_process import END_SECONDS, WorkerProcess, spawn
from tfship.train.common.errors import ArtifactError, TfshipError

__all__ = ["WorkerPool"]

log = logging.getLogger(__name__)

# Pauses before a dead worker is replaced. Each failed start, and each death within `_LONG_SECONDS` of the start, uses
# the next one. The same pauses, without the first, precede new tries to load a version that a worker lacks.
_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_LONG_SECONDS = 60.0
# If only one worker is alive, the time that a new version waits for a second one before it is loaded.
_SECOND_WORKER_SECONDS = 30.0
# Deaths of workers that were loading a version, after which replacements don't load it. The first death may have
# another cause.
_FATAL_DEATHS = 2


class WorkerPool:
    """A `Host` of `settings.workers` processes. `reload` is called with the ModelServerConfig of a reload request.

    Workers send a heartbeat every second. One without a heartbeat for `settings.worker_timeout_seconds` is killed and
    replaced, so that no method waits longer for it.
    """

    def __init__(self, settings: Settings, reload: Callable[[Any], None]) -> None:
        self._settings = settings
        self._reload = reload
        # Held while the fields below change, and while the change is sent to the workers. `_loaded`, `_view` and
        # `_ports` are the common state. Workers in `_active` have all of it and get each change.
        self._lock = threading.Lock()
        self._active: list[WorkerProcess] = []
        self._loaded: dict[int, Path] = {}
        self._view: View = {}
        self._ports: tuple[int, int] | None = None
        self._held: list[socket.socket] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # Used without the lock, because its holder may be waiting for a hanging process. `_all` also contains workers
        # that aren't active yet.
        self._all: set[WorkerProcess] = set()
        self._stopping = threading.Event()
        self._supervisors: list[threading.Thread] = []

    def start(self) -> None:
        """Start the processes. Raises TfshipError if one can't be started, or ends during its start."""
        if self._settings.metrics_path is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="tfship-metrics-")
            self._settings = replace(self._settings, metrics_folder=Path(self._folder.name))
        try:
            workers = self._spawn(range(self._settings.workers))
        except (OSError, RuntimeError) as error:
            raise TfshipError(
                f"the {self._settings.workers} worker processes can't be started ({error}); pass a smaller --workers, "
                "or raise the limits of processes, open files and memory"
            ) from error
        for worker in workers:
            try:
                worker.channel.call("publish", {})
            except ChannelClosed:
                raise ArtifactError(
                    f"a worker process ended during its start ({worker.wait_ended()}); see its output for the reason"
                ) from None
        with self._lock:
            self._active = workers
        self._supervisors = [
            threading.Thread(
                target=self._supervise, args=(worker,), name=f"worker-{worker.number}", daemon=True
            )
            for worker in workers
        ]
        for supervisor in self._supervisors:
            supervisor.start()

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """See `Fleet.load`.

        Once the ports are open, one worker loads a version before the others do. A version that kills its process then
        ends only one of them. If one worker is left, the load waits up to 30 s for a second one.
        """
        alone_until = time.monotonic() + _SECOND_WORKER_SECONDS
        notes: tuple[str, ...] = ()
        done: set[WorkerProcess] = set()
        died: set[WorkerProcess] = set()
        while True:
            with self._lock:
                targets = [worker for worker in self._active if worker not in done and worker not in died]
                if done and not targets:
                    self._loaded[key] = path
                    return notes
                careful = self._ports is not None and not done
                alone = len(self._active) < min(2, self._settings.workers)
            if not targets or (careful and alone and time.monotonic() < alone_until):
                if self._stopping.wait(0.1):
                    raise _stopping_error()
                continue
            targets = targets[:1] if careful else targets
            futures = [(worker, worker.channel.start("load", key, path)) for worker in targets]
            error: StatusError | None = None
            for worker, future in futures:
                try:
                    notes = future.result()
                    done.add(worker)
                except StatusError as refusal:
                    error = refusal
                except ChannelClosed:
                    died.add(worker)
                    if self._stopping.is_set():
                        error = _stopping_error()
                    elif not done:
                        # If another worker has loaded the version, the version isn't the cause of the death.
                        error = ProcessDiedError(
                            f"{path}: the process that loaded it died ({worker.wait_ended()})"
                        )
            if error:
                self._call_all(done, "unload", key)
                raise error

    def unload(self, key: int) -> None:
        """See `Fleet.unload`."""
        with self._lock:
            self._loaded.pop(key, None)
            workers = list(self._active)
        self._call_all(workers, "unload", key)

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        with self._lock:
            self._view = view
            self._call_all(self._active, "publish", view)

    def release(self) -> None:
        """See `Fleet.release`."""
        self._stopping.set()
        for worker in self._all.copy():
            worker.channel.start("release")

    def open(self, grpc_port: int, rest_port: int) -> tuple[int, int]:
        """Open the ports of all workers and return their numbers. Raises UsageError."""
        ports = []
        for port in (grpc_port, rest_port):
            if port:
                # Bound here without listening, so that the port stays reserved for this server.
                self._held.append(bound(self._settings.host, max(0, port), shared=True, listening=False))
                ports.append(self._held[-1].getsockname()[1])
            else:
                ports.append(0)
        with self._lock:
            self._ports = (ports[0], ports[1])
            self._call_all(self._active, "open", *self._ports)
        return self._ports

    def close(self, grace_seconds: float = 0.0) -> None:
        """Refuse new requests, wait `grace_seconds` for those in flight, and end the processes."""
        self._stopping.set()
        workers = self._all.copy()
        futures = []
        for worker in workers:
            if self._ports and worker in self._active:
                futures.append(worker.channel.start("close", grace_seconds))
            else:
                worker.kill()  # it serves nothing yet
        concurrent.futures.wait(futures, grace_seconds + END_SECONDS)
        for worker in workers:
            worker.channel.close()
        for worker in workers:
            worker.wait_ended()
        for supervisor in self._supervisors:
            supervisor.join()
        for held in self._held:
            held.close()
        if self._folder:
            self._folder.cleanup()

    def reload(self, config: bytes) -> None:
        """Reload on behalf of a worker; see `ModelManager.reload`."""
        self._reload(model_server_config_pb2.ModelServerConfig.FromString(config))

    def _spawn(self, numbers: Iterable[int]) -> list[WorkerProcess]:
        workers = spawn(numbers, self._settings, self)
        self._all.update(workers)
        return workers

    def _supervise(self, worker: WorkerProcess) -> None:
        """Replace the worker each time that it ends, until the server stops."""
        failures = 0
        while True:
            self._await_end(worker)
            ended = worker.wait_ended()
            with self._lock:
                if worker in self._active:
                    self._active.remove(worker)
            self._all.discard(worker)
            if self._stopping.is_set():
                return
            if time.monotonic() - worker.started > _LONG_SECONDS:
                failures = 0
                worker.deaths.clear()
            log.warning("worker %d has died (%s); starting a replacement", worker.number, ended)
            replacement = None
            while replacement is None:
                if self._stopping.wait(_pause(failures)):
                    return
                failures += 1
                replacement = self._replace(worker, failures)
            worker = replacement

    def _replace(self, dead: WorkerProcess, failures: int) -> WorkerProcess | None:
        """Return the replacement of a dead worker; None if it can't be started, after `failures` failures."""
        try:
            (worker,) = self._spawn([dead.number])
        except (OSError, RuntimeError, MemoryError) as error:
            log.warning(
                "worker %d: the replacement can't be started: %s; next try in %g s",
                dead.number,
                error,
                _pause(failures),
            )
            return None
        worker.deaths = dead.deaths
        try:
            self._catch_up(worker)
        except Exception as error:  # noqa: BLE001 - the next attempt may succeed
            if not self._stopping.is_set():
                why = error if str(error) else "it has died"
                log.warning("worker %d: the replacement failed: %s; trying again", worker.number, why)
            worker.kill()
        return worker

    def _catch_up(self, worker: WorkerProcess) -> None:
        """Load the current versions in a new worker, open its ports and make it active.

        Versions that it can't load don't prevent it from serving the others.
        """
        done: set[int] = set()
        while True:
            with self._lock:
                if self._stopping.is_set():
                    raise _stopping_error()
                missing = {key: path for key, path in self._loaded.items() if key not in done}
                if not missing:
                    for key in done - self._loaded.keys():
                        worker.channel.call("unload", key)
                    worker.channel.call("publish", self._view)
                    if self._ports:
                        worker.channel.call("open", *self._ports)
                    self._active.append(worker)
                    break
            for key, path in missing.items():
                done.add(key)
                if worker.deaths[key] < _FATAL_DEATHS:
                    self._load_late(worker, key, path)
                else:
                    log.error(
                        "worker %d: %s: not loaded, because %d workers died while they loaded it; requests for it get "
                        "UNAVAILABLE from this worker",
                        worker.number,
                        path,
                        worker.deaths[key],
                    )
        log.info("worker %d: the replacement is serving", worker.number)

    def _load_late(self, worker: WorkerProcess, key: int, path: Path) -> bool:
        """Load a version in a worker that lacks it, and return whether that has succeeded."""
        try:
            worker.channel.call("load", key, path)
        except ChannelClosed:
            worker.deaths[key] += 1
            raise
        except StatusError as error:
            # If the version was unloaded in the meantime, its files may no longer exist.
            if key in self._loaded and worker.lacking.get(key) != error.detail:
                log.error(
                    "worker %d: %s: can't be loaded: %s; requests for it get UNAVAILABLE from this worker until a "
                    "later try succeeds",
                    worker.number,
                    path,
                    error.detail,
                )
            worker.lacking[key] = error.detail
            return False
        return True

    def _await_end(self, worker: WorkerProcess) -> None:
        """Wait until the worker ends. Until then, try again to load the versions that it lacks."""
        tries = 0
        while worker.lacking:
            tries += 1
            worker.reader.join(_pause(tries))
            if not worker.reader.is_alive():
                return
            with contextlib.suppress(ChannelClosed):
                for key in list(worker.lacking):
                    self._retry(worker, key)
        worker.reader.join()

    def _retry(self, worker: WorkerProcess, key: int) -> None:
        """Try again to load a version in a worker that lacks it."""
        path = self._loaded.get(key)
        if path is None:
            del worker.lacking[key]
            return
        if not self._load_late(worker, key, path):
            return
        del worker.lacking[key]
        log.info("worker %d: %s: loaded", worker.number, path)
        with self._lock:
            is_current = key in self._loaded
        if not is_current:
            # The other workers have unloaded it in the meantime.
            worker.channel.call("unload", key)

    def _call_all(self, workers: Iterable[WorkerProcess], method: str, *arguments: Any) -> None:
        """Call `method` in all `workers` concurrently and wait for the results; dead workers are ignored."""
        for future in [worker.channel.start(method, *arguments) for worker in workers]:
            with contextlib.suppress(ChannelClosed):
                future.result()


def _stopping_error() -> StatusError:
    return StatusError(Code.UNAVAILABLE, "the server is stopping")


def _pause(failures: int) -> float:
    return _PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS) - 1)]
