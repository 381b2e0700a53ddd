"""Snapshot of model state, published by the model manager to the serving processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from tfship.serving.protos.status import Code, StatusError

__all__ = ["Fleet", "ModelView", "ProcessDiedError", "State", "VersionStatus", "View"]


class State(IntEnum):
    """Lifecycle state of a version (ModelVersionStatus.State)."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """Status of a version in GetModelStatus; `code` is OK unless it couldn't be loaded."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class ModelView:
    """State of a model for requests.

    `statuses` are those of all versions, newest first. `labels` maps labels to version numbers. `available` maps the
    numbers of available versions to the keys that they were loaded under. A model that isn't configured was removed
    from the config, or a rejected config named it.
    """

    statuses: tuple[VersionStatus, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    available: Mapping[int, int] = field(default_factory=dict)
    is_configured: bool = True


View = Mapping[str, ModelView]


class ProcessDiedError(StatusError):
    """The process that loaded a version died, and its requests in flight were lost."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


class Fleet(Protocol):
    """One serving process, or several that act as one.

    A `key` identifies one load, since the same version of a model may be loaded again from another path. Requests use
    the published view. A version is therefore loaded before it is published, and removed from the view before it is
    unloaded. The methods may be called from any thread, and return when all processes are done.
    """

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """Load the version directory `path` as `key` and return notes for the log.

        Raises StatusError, or its subclass ProcessDiedError.
        """

    def unload(self, key: int) -> None:
        """Wait for the last request that uses the version, and unload it."""

    def publish(self, view: View) -> None:
        """Use `view` for requests from now on."""

    def release(self) -> None:
        """Make all pending and later `unload` calls return at once, because the server stops."""
