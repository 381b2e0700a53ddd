"""The models being served, from the disk to the request: found, loaded, used, replaced, unloaded.

One thread watches the base paths. A new version is loaded before the one that it replaces is unloaded, and
a version is unloaded only when the last request that uses it has ended. A version that can't be loaded says
so in its status, while the others go on serving.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from export import store
from serving import versions
from serving.execution import Loaded
from serving.loading import Loader
from serving.status import Code, StatusError
from train.errors import ArtifactError

__all__ = ["LoadPolicy", "ModelManager", "Servable", "State", "VersionStatus"]

log = logging.getLogger(__name__)


class State(IntEnum):
    """A version's life (ModelVersionStatus.State)."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class LoadPolicy:
    """How the disk is watched and loads are retried.

    `poll_seconds` is the time between two looks at the base paths, 0 for a single one at the start. A version
    that appears later and can't be loaded is tried `retries` more times, every `retry_seconds`. At the start
    nothing is retried: whoever starts the server wants to know.
    """

    poll_seconds: float = 1.0
    retries: int = 5
    retry_seconds: float = 60.0
    labels_for_unavailable: bool = False


@dataclass(frozen=True)
class VersionStatus:
    """What GetModelStatus says about a version; `code` is OK unless it couldn't be loaded."""

    version: int
    state: State
    code: Code
    message: str


@dataclass(frozen=True)
class Servable:
    """A version that a request holds on to: it isn't unloaded meanwhile."""

    name: str
    version: int
    loaded: Loaded


@dataclass
class _Version:
    number: int
    path: Path
    state: State = State.START
    code: Code = Code.OK
    message: str = ""
    loaded: Loaded | None = None
    in_flight: int = 0
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

    def __init__(self, config: Any, loader: Loader, policy: LoadPolicy | None = None) -> None:
        self._loader = loader
        self._policy = policy or LoadPolicy()
        self._models = {each.name: _model(each) for each in config.model_config_list.config}
        # Held while models are loaded and unloaded, by the look at the disk or by a reload.
        self._editing = threading.Lock()
        # Guards every version's fields; notified when a state or a count of requests changes.
        self._changed = threading.Condition()
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._failure: ArtifactError | None = None
        self._watcher = threading.Thread(target=self._watch, name="models", daemon=True)

    def start(self) -> None:
        """Load all models, and watch the disk from then on.

        Raises ArtifactError if a model has no versions, can't be loaded, or lacks a version that a label
        names. May be interrupted by an exception from a signal handler.
        """
        self._watcher.start()
        self._started.wait()
        if self._failure:
            raise self._failure

    def stop(self, grace_seconds: float = 0.0) -> None:
        """Unload everything, after at most `grace_seconds` for the requests that still run."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        if self._watcher.is_alive():
            # A load can't be interrupted. Leaving the process in the middle of one would crash it instead.
            self._watcher.join()
        deadline = time.monotonic() + grace_seconds
        for model in self._models.values():
            for version in model.versions.values():
                if version.loaded:
                    self._unload(model, version, deadline)

    def reload(self, config: Any) -> None:
        """Serve the models of another ModelServerConfig, a model_config_list, from now on: all of it or nothing.

        New models and new base paths are loaded before anything that they replace is unloaded. Raises StatusError
        if one of them can't be, or if a label names a version that isn't available yet.
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
                for model in fresh.values():
                    self._load_first(model)
            except ArtifactError as error:
                self._unload_all(fresh.values())
                raise StatusError(Code.of(error, Code.FAILED_PRECONDITION), str(error)) from error
            with self._changed:
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
            for name in kept:
                self._refresh(self._models[name])
            self._unload_all(replaced)
        log.info("config reloaded: %s", ", ".join(sorted({*fresh, *kept})) or "no models")

    def _unload_all(self, models: Iterable[_Model]) -> None:
        for model in models:
            for version in list(model.versions.values()):
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

    @contextlib.contextmanager
    def use(self, spec: Any) -> Iterator[Servable]:
        """Hold the version that `spec`, a ModelSpec, asks for. Raises StatusError if it isn't available."""
        with self._changed:
            version = self._resolve(spec)
            assert version.loaded is not None, "an available version is loaded"  # noqa: S101
            servable = Servable(spec.name, version.number, version.loaded)
            version.in_flight += 1
        try:
            yield servable
        finally:
            with self._changed:
                version.in_flight -= 1
                self._changed.notify_all()

    def status(self, name: str, number: int | None = None) -> list[VersionStatus]:
        """Return the status of all versions ever seen, newest first, or of one.

        Raises StatusError(NOT_FOUND) for a model or version that isn't known.
        """
        with self._changed:
            known = self._models[name].versions if name in self._models else {}
            found = [
                VersionStatus(each.number, each.state, each.code, each.message)
                for each in sorted(known.values(), key=lambda each: each.number, reverse=True)
                if number is None or each.number == number
            ]
        if found:
            return found
        if number is None:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        raise StatusError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")

    def _resolve(self, spec: Any) -> _Version:
        if not spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            labels = model.labels if model else {}
            if spec.version_label not in labels:
                raise StatusError(
                    Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}"
                )
            wanted: int | None = labels[spec.version_label]
        else:
            wanted = spec.version.value if choice == "version" else None
        available = [
            version
            for number, version in (model.versions if model else {}).items()
            if version.state is State.AVAILABLE and wanted in (None, number)
        ]
        if not available:
            asked = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return max(available, key=lambda version: version.number)

    def _watch(self) -> None:
        try:
            for model in self._models.values():
                self._load_first(model)
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
            with self._editing:
                for model in self._models.values():
                    if not model.removed:
                        self._refresh(model)

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
            self._load(model, version, retries=0)
            if version.state is not State.AVAILABLE:
                raise ArtifactError(f"model {model.name} version {number} can't be loaded: {version.message}")
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
        with self._changed:
            model.versions[number] = version = _Version(number, path)
        return version

    def _retire(self, model: _Model, wanted: Mapping[int, Path]) -> None:
        with self._changed:
            for version in model.versions.values():
                if version.number not in wanted and version.state is not State.AVAILABLE:
                    version.retired = True
                    version.state = State.END

    def _load(self, model: _Model, version: _Version, retries: int) -> None:
        with self._changed:
            version.state = State.LOADING
        log.info("model %s version %d: loading, from %s", model.name, version.number, version.path)
        begin = time.monotonic()
        try:
            loaded = self._loader.load(version.path)
        except Exception as error:  # noqa: BLE001 - files can be broken in any way, and the server outlives all
            self._failed(model, version, error, retries)
            return
        with self._changed:
            version.loaded = loaded
            version.code, version.message = Code.OK, ""
            version.state = State.AVAILABLE
            self._changed.notify_all()
        log.info(
            "model %s version %d: available after %.2f s",
            model.name,
            version.number,
            time.monotonic() - begin,
        )
        for note in loaded.notes:
            log.info("model %s version %d: %s", model.name, version.number, note)

    def _failed(self, model: _Model, version: _Version, error: Exception, retries: int) -> None:
        known = isinstance(error, ArtifactError)
        message = str(error) if known else f"{version.path}: {type(error).__name__}: {error}"
        with self._changed:
            version.failures += 1
            version.code, version.message = Code.of(error, Code.UNKNOWN), message
            version.retry_at = time.monotonic() + self._policy.retry_seconds
            again = version.failures <= retries
            if not again:
                version.state = State.END
            self._changed.notify_all()
        then = f"next try in {max(0.0, self._policy.retry_seconds):g} s" if again else "giving up"
        if retries:
            log.warning(
                "model %s version %d: can't be loaded: %s; %s", model.name, version.number, message, then
            )

    def _unload(self, model: _Model, version: _Version, deadline: float | None = None) -> None:
        """Unload `version` when its last request has ended; past `deadline`, leave it loaded."""
        with self._changed:
            version.state = State.UNLOADING
            if deadline is None:
                self._changed.wait_for(lambda: not version.in_flight or self._stopping.is_set())
            else:
                self._changed.wait_for(lambda: not version.in_flight, max(0.0, deadline - time.monotonic()))
            if version.in_flight:
                return
            loaded, version.loaded = version.loaded, None
        if loaded:
            loaded.runtime.close()
        with self._changed:
            version.retired = True
            version.state = State.END
            self._changed.notify_all()
        log.info("model %s version %d: unloaded", model.name, version.number)

    def _complain(self, model: _Model, complaint: str) -> None:
        if complaint and complaint != model.complaint:
            log.warning("model %s: %s", model.name, complaint)
        model.complaint = complaint


_NO_VERSIONS = "holds no integer-named version directory"
_REMEDY = "run `make export`, or name a directory that holds versions (1, 2, …)"
