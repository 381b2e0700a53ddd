"""Registry of the versions loaded in one process; selects the version for a request.

The model manager publishes the available versions as a `View`, the same for all worker processes.
"""

import contextlib
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfship.serving.inference.execution import Loaded
from tfship.serving.models.loader import Loader
from tfship.serving.models.snapshot import ModelView, VersionStatus, View
from tfship.serving.protos.status import Code, StatusError
from tfship.train.common.errors import ArtifactError

__all__ = ["ServableHandle", "Servables"]


@dataclass(frozen=True)
class ServableHandle:
    """A version in use by a request, which prevents its unloading."""

    name: str
    version: int
    loaded: Loaded


@dataclass(eq=False)
class _Entry:
    loaded: Loaded
    path: Path
    in_flight: int = 0
    handle: ServableHandle | None = None


class Servables:
    """A `Fleet` of one process. Its methods may be called from any thread."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._view: View = {}
        self._entries: dict[int, _Entry] = {}
        # Guards all fields.
        self._lock = threading.Lock()
        # Notified when a request of a version that is being unloaded has ended.
        self._changed = threading.Condition(self._lock)
        self._unloading: set[int] = set()
        self._released = False
        self._closed = False

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """See `Fleet.load`."""
        try:
            loaded = self._loader.load(path)
        except Exception as error:  # damaged files may raise any error, and the server must go on
            known = isinstance(error, ArtifactError)
            detail = str(error) if known else f"{path}: {type(error).__name__}: {error}"
            # Clients get TensorFlow's message, without the models' paths, as in TensorFlow Serving.
            message = getattr(error.__cause__, "message", detail)
            raise StatusError(Code.of(error, Code.UNKNOWN), message, detail) from error
        with self._changed:
            closed = self._closed
            if not closed:
                self._entries[key] = _Entry(loaded, path)
        if closed:
            loaded.runtime.close()
            raise StatusError(Code.UNAVAILABLE, "the server is stopping")
        return loaded.notes

    def unload(self, key: int) -> None:
        """See `Fleet.unload`. Has no effect if this process hasn't loaded the version."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                return
            self._unloading.add(key)
            self._changed.wait_for(lambda: not entry.in_flight or self._released)
            self._unloading.discard(key)
            # `close`, or another call for the same version, may have removed it in the meantime.
            if entry.in_flight or self._entries.pop(key, None) is None:
                return
        entry.loaded.runtime.close()

    def publish(self, view: View) -> None:
        """See `Fleet.publish`."""
        with self._changed:
            self._view = view

    def release(self) -> None:
        """See `Fleet.release`."""
        with self._changed:
            self._released = True
            self._changed.notify_all()

    def close(self, grace_seconds: float = 0.0) -> None:
        """Wait at most `grace_seconds` for requests in flight, and unload all versions that are no longer in use.

        A version whose load ends later is unloaded at once.
        """
        with self._changed:
            self._closed = True
            self._unloading |= self._entries.keys()
            self._changed.wait_for(
                lambda: not any(entry.in_flight for entry in self._entries.values()), grace_seconds
            )
            idle = [key for key, entry in self._entries.items() if not entry.in_flight]
            entries = [self._entries.pop(key) for key in idle]
        for entry in entries:
            entry.loaded.runtime.close()

    def use(self, spec: Any) -> contextlib.AbstractContextManager[ServableHandle]:
        """Return a context manager with the version requested by `spec`, a ModelSpec.

        It isn't unloaded within the context. Raises StatusError if it isn't available.
        """
        with self._lock:
            number, entry = self._entry(spec)
            if entry.handle is None:
                entry.handle = ServableHandle(spec.name, number, entry.loaded)
            entry.in_flight += 1
        return _Use(self, entry, entry.handle)

    def directory(self, spec: Any) -> Path:
        """Return the directory of the version requested by `spec`, a ModelSpec. Raises what `use` does."""
        with self._lock:
            return self._entry(spec)[1].path

    def _entry(self, spec: Any) -> tuple[int, _Entry]:
        """Return the number of the version requested by `spec`, and its entry."""
        number, key = self._resolve(spec)
        entry = self._entries.get(key)
        if entry is None:
            raise StatusError(Code.UNAVAILABLE, self._absence(spec.name, number))
        return number, entry

    def _end_use(self, entry: _Entry) -> None:
        with self._lock:
            entry.in_flight -= 1
            if self._unloading:
                self._changed.notify_all()

    @property
    def names(self) -> Collection[str]:
        """Names of all models, including removed ones."""
        return self._view.keys()

    @property
    def configured(self) -> list[str]:
        """Names of the models in the config, sorted."""
        return sorted(name for name, model in self._view.items() if model.is_configured)

    def unavailable_models(self) -> list[str]:
        """Return the names of models in the config that have no available version, sorted.

        The server is ready if there are none.
        """
        view = self._view
        return sorted(name for name, model in view.items() if model.is_configured and not model.available)

    def status(self, name: str, number: int | None = None) -> list[VersionStatus]:
        """Return the statuses of all known versions of the model `name`, newest first, or only of version `number`.

        Raises StatusError(NOT_FOUND) for an unknown model or version.
        """
        model = self._view.get(name, ModelView())
        found = [each for each in model.statuses if number in (None, each.version)]
        if found:
            return found
        if number is None:
            raise StatusError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        raise StatusError(Code.NOT_FOUND, f"Could not find version {number} of model {name}")

    def _absence(self, name: str, number: int) -> str:
        """Return why an available version isn't loaded in this process."""
        if self._closed:
            return "the server is stopping"
        return (
            f"Model {name} version {number} could not be loaded by the worker process that received the request; "
            "try again, since other workers may serve it, and see the server's log for the reason"
        )

    def _resolve(self, spec: Any) -> tuple[int, int]:
        if not spec.name:
            raise StatusError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        model = self._view.get(spec.name, ModelView())
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            if spec.version_label not in model.labels:
                raise StatusError(
                    Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}"
                )
            version: int | None = model.labels[spec.version_label]
        else:
            version = spec.version.value if choice == "version" else None
        number = max(model.available, default=None) if version is None else version
        if number is None or number not in model.available:
            request = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {request}")
        return number, model.available[number]


class _Use(contextlib.AbstractContextManager[ServableHandle]):
    """A request's use of a version, which has begun already."""

    __slots__ = ("_entry", "_handle", "_servables")

    def __init__(self, servables: Servables, entry: _Entry, handle: ServableHandle) -> None:
        self._servables, self._entry, self._handle = servables, entry, handle

    def __enter__(self) -> ServableHandle:
        return self._handle

    def __exit__(self, *_: object) -> None:
        self._servables._end_use(self._entry)
