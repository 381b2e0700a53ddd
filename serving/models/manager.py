"""Manager of the served versions: finds them on disk, loads, retries, replaces and unloads them.

One thread watches the base paths. A new version is loaded before the version that it replaces is unloaded. A failed
load is reported in the version's status, while other versions continue to serve. The processes that load versions are
the `Fleet` (`serving.models.snapshot`).
"""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfship.export.storage.filesystems import CACHE_FOLDER
from tfship.serving.models import version_policy as versions
from tfship.serving.models.served_models import ServedModel, ServedVersion
from tfship.serving.models.snapshot import Fleet, ProcessDiedError, State
from tfship.serving.protos.status import Code, StatusError
from tfship.train.common.errors import ArtifactError, TfshipError

__all__ = ["LoadPolicy", "ModelManager"]

log = logging.getLogger(__name__)

# Number of ended versions kept in GetModelStatus.
_MOST_ENDED = 100


@dataclass(frozen=True)
class LoadPolicy:
    """Settings for watching base paths and for loading.

    - `poll_seconds`: interval between checks of the base paths; 0: only one check, at the start.
    - `retries`, `retry_seconds`: number of retries and interval for a version that appears later and can't be loaded.
      If the process that loaded it has died, there is at most one retry, at the next check. At the start, nothing is
      retried, so that errors are reported at once.
    - `labels_for_unavailable`: whether labels may name versions that aren't available.
    - `first_load_threads`, `load_threads`: number of models loaded in parallel at the start, and later; 0: one by one.
    - `unload_threads`: number of versions whose last requests can be awaited in the background; 0: unloads block.
    - `cache_folder`: folder of the copies of versions from object storage.
    """

    poll_seconds: float = 1.0
    retries: int = 5
    retry_seconds: float = 60.0
    labels_for_unavailable: bool = False
    first_load_threads: int = 0
    load_threads: int = 0
    unload_threads: int = 0
    cache_folder: Path = CACHE_FOLDER


def _model(config: Any) -> ServedModel:
    return ServedModel(
        config.name, config.base_path, config.model_version_policy, dict(config.version_labels)
    )


class ModelManager:
    """Manager of the models in a ModelServerConfig. Its methods may be called from any thread."""

    def __init__(self, config: Any, fleet: Fleet, policy: LoadPolicy | None = None) -> None:
        self._fleet = fleet
        self._policy = policy or LoadPolicy()
        self._keys = itertools.count(1)
        # Held while models are loaded and unloaded, by a check of the base paths or by a reload.
        self._editing = threading.Lock()
        # Guards the models' and versions' fields, and the order of published views.
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._models = {each.name: _model(each) for each in config.model_config_list.config}
        self._failure: TfshipError | None = None
        self._watcher = threading.Thread(target=self._watch, name="models", daemon=True)
        threads = self._policy.unload_threads
        self._unloads = ThreadPoolExecutor(threads, thread_name_prefix="unload") if threads else None

    def start(self) -> None:
        """Load all models, and watch the base paths from then on.

        Raises ArtifactError if a model has no versions or can't be loaded, or if a label names a version that isn't
        available, and TargetError if object storage can't be read. May be interrupted by an exception from a signal
        handler.
        """
        self._watcher.start()
        self._started.wait()
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Stop loading and unloading; loaded versions stay available for requests in flight."""
        self._stopping.set()
        self._fleet.release()

    def join(self) -> None:
        """Wait for loads and unloads that began before `stop`."""
        if self._watcher.is_alive():
            # A load can't be interrupted, and exiting during a load would crash the process.
            self._watcher.join()
        if self._unloads:
            self._unloads.shutdown()
        for model in self._models.values():
            model.close()

    def reload(self, config: Any) -> None:
        """Switch to the models of another ModelServerConfig, a model_config_list: all of them, or none on an error.

        New models and new base paths are loaded before the models that they replace are unloaded. Raises StatusError
        if one can't be loaded, or if a label names a version that isn't available yet. The statuses of its versions
        then report the reason, as for a removed model.
        """
        with self._editing:
            self._check_new_labels(config)
            fresh: dict[str, ServedModel] = {}
            kept: dict[str, Any] = {}
            for each in config.model_config_list.config:
                known = self._models.get(each.name)
                if known and not known.removed and known.base_path == each.base_path:
                    kept[each.name] = each
                else:
                    fresh[each.name] = _model(each)
            try:
                for name, each in kept.items():
                    self._models[name].prepare(each.model_version_policy)
                _run_all(self._policy.load_threads, self._load_initial, fresh.values())
            except TfshipError as error:
                for name in kept:
                    with contextlib.suppress(TfshipError):
                        self._models[name].prepare(self._models[name].policy)
                self._unload_all(fresh.values())
                self._keep_statuses(fresh.values())
                raise StatusError(Code.FAILED_PRECONDITION, str(error)) from error
            with self._lock:
                replaced = [
                    model
                    for name, model in self._models.items()
                    if name in fresh or (name not in kept and not model.removed)
                ]
                for model in replaced:
                    model.removed, model.labels = True, {}
                self._models |= fresh
                for name, each in kept.items():
                    self._models[name].policy = each.model_version_policy
                    self._models[name].labels = dict(each.version_labels)
                self._publish()
            for name in kept:
                self._refresh(self._models[name])
            self._unload_all(replaced)
        log.info("config reloaded: %s", ", ".join(sorted({*fresh, *kept})) or "no models")

    def _keep_statuses(self, failed: Iterable[ServedModel]) -> None:
        with self._lock:
            for model in failed:
                known = self._models.get(model.name)
                broken = any(version.code is not Code.OK for version in model.versions.values())
                if broken and (known is None or known.removed):
                    model.removed, model.labels = True, {}
                    self._models[model.name] = model
            self._publish()

    def _unload_all(self, models: Iterable[ServedModel]) -> None:
        for model in models:
            # Versions that wait for a retry are never loaded.
            self._retire(model, chosen={})
            for version in model.versions.values():
                if version.state is State.AVAILABLE:
                    self._unload(model, version)
            model.close()

    def _check_new_labels(self, config: Any) -> None:
        if self._policy.labels_for_unavailable:
            return
        for each in config.model_config_list.config:
            known = self._models.get(each.name)
            for number in each.version_labels.values():
                version = known.versions.get(number) if known else None
                if version is None or version.state is not State.AVAILABLE:
                    raise StatusError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label to version {number} of model {each.name}, which is not currently "
                        "available for inference",
                    )

    def _watch(self) -> None:
        try:
            _run_all(self._policy.first_load_threads, self._load_initial, self._models.values())
        except TfshipError as error:
            self._failure = error
            return
        except Exception as error:  # start() must not hang after an unexpected error
            self._failure = ArtifactError(f"a model can't be loaded ({type(error).__name__}: {error})")
            log.debug("unexpected", exc_info=True)
            return
        finally:
            self._started.set()
        if not self._policy.poll_seconds:
            return
        while not self._stopping.wait(self._policy.poll_seconds):
            try:
                with self._editing:
                    watched = [model for model in self._models.values() if not model.removed]
                    _run_all(self._policy.load_threads, self._refresh, watched)
            except Exception:  # the watcher must go on; the next check may succeed
                log.exception("unexpected error while looking for versions")

    def _load_initial(self, model: ServedModel) -> None:
        model.start(self._policy.cache_folder, self._policy.poll_seconds, self._stopping)
        if self._stopping.is_set():
            return
        try:
            found = model.scan()
        except FileNotFoundError:
            raise ArtifactError(f"{model.base_path}: no such directory; {_REMEDY}") from None
        except OSError as error:
            raise ArtifactError(f"{model.base_path}: can't be read ({error.strerror})") from None
        if not found:
            raise ArtifactError(f"{model.base_path}: {_NO_VERSIONS}; {_REMEDY}")
        chosen = versions.choose(model.policy, found)
        if not chosen:
            raise ArtifactError(
                f"{model.base_path}: holds none of the versions in model_version_policy.specific; "
                f"found {sorted(found)}"
            )
        for number, path in chosen.items():
            if self._stopping.is_set():
                return
            version = self._add(model, number, path)
            if failure := self._load(model, version, retries=0):
                raise ArtifactError(f"model {model.name} version {number} can't be loaded: {failure.detail}")
        self._check_labels(model)

    def _check_labels(self, model: ServedModel) -> None:
        if self._policy.labels_for_unavailable:
            return
        for label, number in model.labels.items():
            version = model.versions.get(number)
            if version is None or version.state is not State.AVAILABLE:
                raise ArtifactError(
                    f"model {model.name}: label {label} names version {number}, which is not available; serve it "
                    "or pass --allow_version_labels_for_unavailable_models"
                )

    def _refresh(self, model: ServedModel) -> None:
        """Load and unload versions of `model` according to those on disk."""
        try:
            found = model.scan()
        except OSError as error:
            # A base path that can't be read changes nothing, as in TensorFlow Serving.
            self._log_problem(
                model, f"{model.base_path}: can't be read ({error.strerror}); serving the loaded versions"
            )
            return
        self._log_problem(model, "" if found else f"{model.base_path}: {_NO_VERSIONS}; {_REMEDY}")
        chosen = versions.choose(model.policy, found)
        self._retire(model, chosen)
        for number, path in chosen.items():
            known = model.versions.get(number)
            version = known if known and not known.retired else self._add(model, number, path)
            due = version.state is State.LOADING and time.monotonic() >= version.retry_at
            if version.state is State.START or due:
                self._load(model, version, self._policy.retries)
        if chosen and not any(model.versions[number].state is State.AVAILABLE for number in chosen):
            return
        for version in list(model.versions.values()):
            if version.state is State.AVAILABLE and version.number not in chosen:
                self._unload(model, version)

    def _add(self, model: ServedModel, number: int, path: Path) -> ServedVersion:
        with self._lock:
            ended = [each.number for each in model.versions.values() if each.retired]
            for oldest in ended[: max(0, len(ended) - _MOST_ENDED)]:
                del model.versions[oldest]
            # A number that was there before moves to the end: the versions are ordered by age.
            model.versions.pop(number, None)
            model.versions[number] = version = ServedVersion(number, path, next(self._keys))
        return version

    def _retire(self, model: ServedModel, chosen: Mapping[int, Path]) -> None:
        """End the versions of `model` that aren't chosen any more and aren't loaded."""
        loaded = (State.AVAILABLE, State.UNLOADING)
        for version in model.versions.values():
            if version.number not in chosen and version.state not in loaded and not version.retired:
                version.retired = True
                self._set_state(version, State.END)

    def _load(self, model: ServedModel, version: ServedVersion, retries: int) -> StatusError | None:
        self._set_state(version, State.LOADING)
        log.info("model %s version %d: loading from %s", model.name, version.number, version.path)
        begin = time.monotonic()
        try:
            notes = self._fleet.load(version.key, version.path)
        except StatusError as error:
            self._record_failure(model, version, error, retries)
            return error
        version.code, version.message = Code.OK, ""
        self._set_state(version, State.AVAILABLE)
        seconds = time.monotonic() - begin
        log.info("model %s version %d: available after %.2f s", model.name, version.number, seconds)
        for note in notes:
            log.info("model %s version %d: %s", model.name, version.number, note)
        return None

    def _record_failure(
        self, model: ServedModel, version: ServedVersion, error: StatusError, retries: int
    ) -> None:
        version.failures += 1
        version.code, version.message = error.code, error.message
        seconds = max(0.0, self._policy.retry_seconds)
        if isinstance(error, ProcessDiedError):
            # The first death may have another cause. More than one retry would lose further requests in flight.
            seconds, retries = 0.0, min(retries, 1)
        version.retry_at = time.monotonic() + seconds
        again = version.failures <= retries
        self._set_state(version, State.LOADING if again else State.END)
        then = f"next try in {seconds:g} s" if again else "no further retries"
        if retries and not self._stopping.is_set():
            log.warning(
                "model %s version %d: can't be loaded: %s; %s",
                model.name,
                version.number,
                error.detail,
                then,
            )

    def _unload(self, model: ServedModel, version: ServedVersion) -> None:
        self._set_state(version, State.UNLOADING)
        if self._unloads:
            self._unloads.submit(self._finish_unload, model, version)
        else:
            self._finish_unload(model, version)

    def _finish_unload(self, model: ServedModel, version: ServedVersion) -> None:
        self._fleet.unload(version.key)
        version.retired = True
        self._set_state(version, State.END)
        log.info("model %s version %d: unloaded", model.name, version.number)

    def _set_state(self, version: ServedVersion, state: State) -> None:
        with self._lock:
            version.state = state
            self._publish()

    def _publish(self) -> None:
        """Publish a snapshot to the fleet; the caller must hold the lock."""
        self._fleet.publish({name: model.view() for name, model in self._models.items()})

    def _log_problem(self, model: ServedModel, problem: str) -> None:
        if problem and problem != model.problem:
            log.warning("model %s: %s", model.name, problem)
        model.problem = problem


_T = TypeVar("_T")


def _run_all(threads: int, work: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Call `work` for all items, `threads` at a time, and raise the first error once all calls have ended."""
    if not threads:
        for each in items:
            work(each)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, each) for each in items]:
            done.result()


_NO_VERSIONS = "holds no integer-named version directory"
_REMEDY = "run `tfship export`, or pass a directory that holds versions (1, 2, …)"
