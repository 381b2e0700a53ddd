"""Which versions are served: found on disk, loaded, replaced, retried, unloaded.

One thread watches the base paths. A new version is loaded before the one that it replaces is unloaded. A
version that can't be loaded says so in its status, while the others go on serving. Where versions are loaded
is the fleet's business (`serving.models.snapshot`).
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tfship.export.publishing import store
from tfship.serving.models import version_policy as versions
from tfship.serving.models.snapshot import Fleet, ModelView, ProcessDiedError, State, VersionStatus
from tfship.serving.protos.status import Code, StatusError
from tfship.train.common.errors import ArtifactError

__all__ = ["LoadPolicy", "ModelManager"]

log = logging.getLogger(__name__)

# Versions that have ended are told of as long as there are no more of them: each is part of every status.
_MOST_ENDED = 100


@dataclass(frozen=True)
class LoadPolicy:
    """How the disk is watched and loads are retried.

    `poll_seconds` is the time between two looks at the base paths, 0 for a single one at the start. A version
    that appears later and can't be loaded is tried `retries` more times, every `retry_seconds`; but only once more,
    at the next look, if the process that loaded it has died. At the start nothing is retried: whoever starts the
    server wants to know.

    Models are loaded `first_load_threads` at a time at the start, and later `load_threads`. A version is unloaded
    when its last request has ended; with `unload_threads`, so many of them wait for that, and nothing else does.
    0 threads are none of their own: one load, or unload, after the other.
    """

    poll_seconds: float = 1.0
    retries: int = 5
    retry_seconds: float = 60.0
    labels_for_unavailable: bool = False
    first_load_threads: int = 0
    load_threads: int = 0
    unload_threads: int = 0


@dataclass
class _Version:
    number: int
    path: Path
    key: int
    state: State = State.START
    code: Code = Code.OK
    message: str = ""
    failures: int = 0
    retry_at: float = 0.0
    # Set when the policy stopped wanting it: only then does the same number mean a new version.
    retired: bool = False


@dataclass
class _Model:
    name: str
    base_path: Path
    policy: Any
    labels: Mapping[str, int]
    versions: dict[int, _Version] = field(default_factory=dict)
    # Taken out of the config: only its versions' last states are still told.
    removed: bool = False
    complaint: str = ""  # the last one that was logged: a problem on disk is one line, not one per look


def _model(config: Any) -> _Model:
    return _Model(
        config.name, Path(config.base_path), config.model_version_policy, dict(config.version_labels)
    )


class ModelManager:
    """Keeps the models of a ModelServerConfig available. Its methods may be called from any thread."""

    def __init__(self, config: Any, fleet: Fleet, policy: LoadPolicy | None = None) -> None:
        self._fleet = fleet
        self._policy = policy or LoadPolicy()
        self._keys = itertools.count(1)
        self._models = {each.name: _model(each) for each in config.model_config_list.config}
        # Held while models are loaded and unloaded, by the look at the disk or by a reload.
        self._editing = threading.Lock()
        # Guards the models' and versions' fields, and keeps views in their order.
        self._lock = threading.Lock()
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._failure: ArtifactError | None = None
        self._watcher = threading.Thread(target=self._watch, name="models", daemon=True)
        threads = self._policy.unload_threads
        self._unloads = ThreadPoolExecutor(threads, thread_name_prefix="unload") if threads else None

    def start(self) -> None:
        """Load all models, and watch the disk from then on.

        Raises ArtifactError if a model has no versions, can't be loaded, or lacks a version that a label
        names. May be interrupted by an exception from a signal handler.
        """
        self._watcher.start()
        self._started.wait()
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Load and unload nothing any more; what is loaded stays, for the requests that still run."""
        self._stopping.set()
        self._fleet.release()

    def join(self) -> None:
        """Wait until what was begun before `stop` is done."""
        if self._watcher.is_alive():
            # A load can't be interrupted. Leaving the process in the middle of one would crash it instead.
            self._watcher.join()
        if self._unloads:
            self._unloads.shutdown()

    def reload(self, config: Any) -> None:
        """Serve the models of another ModelServerConfig, a model_config_list, from now on: all of it or nothing.

        New models and new base paths are loaded before anything that they replace is unloaded. Raises StatusError
        if one of them can't be, or if a label names a version that isn't available yet. Why a new model couldn't be
        is then told by its versions' statuses, as if it had been removed.
        """
        with self._editing:
            self._check_new_labels(config)
            fresh: dict[str, _Model] = {}
            kept: dict[str, Any] = {}
            for each in config.model_config_list.config:
                known = self._models.get(each.name)
                if known and not known.removed and known.base_path == Path(each.base_path):
                    kept[each.name] = each
                else:
                    fresh[each.name] = _model(each)
            try:
                _each(self._policy.load_threads, self._load_first, fresh.values())
            except ArtifactError as error:
                self._unload_all(fresh.values())
                self._remember(fresh.values())
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

    def _remember(self, failed: Iterable[_Model]) -> None:
        with self._lock:
            for model in failed:
                known = self._models.get(model.name)
                broken = any(version.code is not Code.OK for version in model.versions.values())
                if broken and (known is None or known.removed):
                    model.removed, model.labels = True, {}
                    self._models[model.name] = model
            self._publish()

    def _unload_all(self, models: Iterable[_Model]) -> None:
        for model in models:
            for version in model.versions.values():
                if version.state is State.AVAILABLE:
                    self._unload(model, version)

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
            _each(self._policy.first_load_threads, self._load_first, self._models.values())
        except ArtifactError as error:
            self._failure = error
            return
        except Exception as error:  # whatever it is, start() must not wait for ever
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
                    _each(self._policy.load_threads, self._refresh, watched)
            except (
                Exception
            ):  # whatever it was, the next look may go better; without looks, nothing is ever new
                log.exception("unexpected error while looking for versions")

    def _load_first(self, model: _Model) -> None:
        try:
            found = store.scan(model.base_path)
        except FileNotFoundError:
            raise ArtifactError(f"{model.base_path}: no such directory; {_REMEDY}") from None
        except OSError as error:
            raise ArtifactError(f"{model.base_path}: can't be read ({error.strerror})") from None
        if not found:
            raise ArtifactError(f"{model.base_path}: {_NO_VERSIONS}; {_REMEDY}")
        wanted = versions.choose(model.policy, found)
        if not wanted:
            raise ArtifactError(
                f"{model.base_path}: holds none of the versions that model_version_policy asks for; "
                f"found {sorted(found)}"
            )
        for number, path in wanted.items():
            if self._stopping.is_set():
                return
            version = self._add(model, number, path)
            if failure := self._load(model, version, retries=0):
                raise ArtifactError(f"model {model.name} version {number} can't be loaded: {failure.detail}")
        self._check_labels(model)

    def _check_labels(self, model: _Model) -> None:
        if self._policy.labels_for_unavailable:
            return
        for label, number in model.labels.items():
            version = model.versions.get(number)
            if version is None or version.state is not State.AVAILABLE:
                raise ArtifactError(
                    f"model {model.name}: label {label} names version {number}, which is not available; serve it "
                    "or pass --allow_version_labels_for_unavailable_models"
                )

    def _refresh(self, model: _Model) -> None:
        """Bring what is loaded in line with what is on disk."""
        try:
            found = store.scan(model.base_path)
        except OSError as error:
            # As TensorFlow Serving: a base path that can't be read changes nothing.
            self._complain(
                model, f"{model.base_path}: can't be read ({error.strerror}); serving what is loaded"
            )
            return
        self._complain(model, "" if found else f"{model.base_path}: {_NO_VERSIONS}; {_REMEDY}")
        wanted = versions.choose(model.policy, found)
        self._retire(model, wanted)
        for number, path in wanted.items():
            known = model.versions.get(number)
            version = known if known and not known.retired else self._add(model, number, path)
            due = version.state is State.LOADING and time.monotonic() >= version.retry_at
            if version.state is State.START or due:
                self._load(model, version, self._policy.retries)
        if wanted and not any(model.versions[number].state is State.AVAILABLE for number in wanted):
            return
        for version in list(model.versions.values()):
            if version.state is State.AVAILABLE and version.number not in wanted:
                self._unload(model, version)

    def _add(self, model: _Model, number: int, path: Path) -> _Version:
        with self._lock:
            ended = [each.number for each in model.versions.values() if each.retired]
            for oldest in ended[: max(0, len(ended) - _MOST_ENDED)]:
                del model.versions[oldest]
            # At the end, even if the number was there before: by age, not by number.
            model.versions.pop(number, None)
            model.versions[number] = version = _Version(number, path, next(self._keys))
        return version

    def _retire(self, model: _Model, wanted: Mapping[int, Path]) -> None:
        held = (State.AVAILABLE, State.UNLOADING)
        for version in model.versions.values():
            if version.number not in wanted and version.state not in held and not version.retired:
                version.retired = True
                self._enter(version, State.END)

    def _load(self, model: _Model, version: _Version, retries: int) -> StatusError | None:
        self._enter(version, State.LOADING)
        log.info("model %s version %d: loading, from %s", model.name, version.number, version.path)
        begin = time.monotonic()
        try:
            notes = self._fleet.load(version.key, version.path)
        except StatusError as error:
            self._failed(model, version, error, retries)
            return error
        version.code, version.message = Code.OK, ""
        self._enter(version, State.AVAILABLE)
        seconds = time.monotonic() - begin
        log.info("model %s version %d: available after %.2f s", model.name, version.number, seconds)
        for note in notes:
            log.info("model %s version %d: %s", model.name, version.number, note)
        return None

    def _failed(self, model: _Model, version: _Version, error: StatusError, retries: int) -> None:
        version.failures += 1
        version.code, version.message = error.code, error.message
        seconds = max(0.0, self._policy.retry_seconds)
        if isinstance(error, ProcessDiedError):
            # It may have died of something else. A second time it is the version; and each time takes requests along.
            seconds, retries = 0.0, min(retries, 1)
        version.retry_at = time.monotonic() + seconds
        again = version.failures <= retries
        self._enter(version, State.LOADING if again else State.END)
        then = f"next try in {seconds:g} s" if again else "giving up"
        if retries and not self._stopping.is_set():
            log.warning(
                "model %s version %d: can't be loaded: %s; %s",
                model.name,
                version.number,
                error.detail,
                then,
            )

    def _unload(self, model: _Model, version: _Version) -> None:
        self._enter(version, State.UNLOADING)
        if self._unloads:
            self._unloads.submit(self._finish, model, version)
        else:
            self._finish(model, version)

    def _finish(self, model: _Model, version: _Version) -> None:
        self._fleet.unload(version.key)
        version.retired = True
        self._enter(version, State.END)
        log.info("model %s version %d: unloaded", model.name, version.number)

    def _enter(self, version: _Version, state: State) -> None:
        with self._lock:
            version.state = state
            self._publish()

    def _publish(self) -> None:
        """Tell the fleet how things stand; to be called with the lock held."""
        self._fleet.publish({name: _view(model) for name, model in self._models.items()})

    def _complain(self, model: _Model, complaint: str) -> None:
        if complaint and complaint != model.complaint:
            log.warning("model %s: %s", model.name, complaint)
        model.complaint = complaint


def _view(model: _Model) -> ModelView:
    newest_first = sorted(model.versions.values(), key=lambda each: each.number, reverse=True)
    return ModelView(
        tuple(VersionStatus(each.number, each.state, each.code, each.message) for each in newest_first),
        model.labels,
        {each.number: each.key for each in newest_first if each.state is State.AVAILABLE},
    )


_T = TypeVar("_T")


def _each(threads: int, work: Callable[[_T], None], items: Iterable[_T]) -> None:
    """Do `work` for all items, so many at a time, and raise the first error when all that have begun are done."""
    if not threads:
        for each in items:
            work(each)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, each) for each in items]:
            done.result()


_NO_VERSIONS = "holds no integer-named version directory"
_REMEDY = "run `tfship export`, or name a directory that holds versions (1, 2, …)"
