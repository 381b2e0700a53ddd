"""How all models stand, as those who watch them tell those who serve them: in one process or between several."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from tfship.serving.protos.status import Code, StatusError

__all__ = ["Fleet", "ModelView", "ProcessDiedError", "State", "VersionStatus", "View"]


class State(IntEnum):
    """A version's life (ModelVersionStatus.State)."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What GetModelStatus says about a version; `code` is OK unless it couldn't be loaded."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


@dataclass(frozen=True)
class ModelView:
    """A model as requests see it: all versions' statuses, newest first, labels, and what is available.

    `available` maps version numbers to the keys that they were loaded under.
    """

    statuses: tuple[VersionStatus, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    available: Mapping[int, int] = field(default_factory=dict)


View = Mapping[str, ModelView]


class ProcessDiedError(StatusError):
    """A version killed the process that loaded it, with whatever that one was answering."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INTERNAL, message)


class Fleet(Protocol):
    """Where versions are loaded: in this process, or in several that act as one.

    A `key` names one load: the same number of the same model may be loaded again from another place. What
    requests may use is told by `publish`, so a version is loaded first, then published; and withdrawn first,
    then unloaded. The methods may be called from any thread, and return when all of it is done.
    """

    def load(self, key: int, path: Path) -> tuple[str, ...]:
        """Load the version directory `path` and return notes for the operator.

        Raises StatusError, ProcessDiedError among them.
        """

    def unload(self, key: int) -> None:
        """Unload a version when the last request that uses it has ended."""

    def publish(self, view: View) -> None:
        """Answer requests by `view` from now on."""

    def release(self) -> None:
        """Let every `unload` return at once, done or not: the end is near."""
