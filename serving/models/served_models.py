"""State of the served models and their versions, which the model manager keeps."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfship.export.publishing import store
from tfship.export.storage.filesystems import is_url
from tfship.serving.models.snapshot import ModelView, State, VersionStatus
from tfship.serving.protos.status import Code

if TYPE_CHECKING:
    from tfship.serving.models.mirror import Mirror

__all__ = ["ServedModel", "ServedVersion"]


@dataclass
class ServedVersion:
    """A version, which the fleet loads from `path` as `key`."""

    number: int
    path: Path
    key: int
    state: State = State.START
    code: Code = Code.OK
    message: str = ""
    failures: int = 0
    retry_at: float = 0.0
    # Set when the policy no longer selects the version. Only then is the same number a new version.
    retired: bool = False


@dataclass
class ServedModel:
    """A model of the config. `base_path` is a directory, or a URL in object storage that `mirror` copies from."""

    name: str
    base_path: str
    policy: Any
    labels: Mapping[str, int]
    mirror: "Mirror | None" = None
    versions: dict[int, ServedVersion] = field(default_factory=dict)
    # Removed from the config: only the last states of its versions are still reported.
    removed: bool = False
    problem: str = ""  # the last logged problem on disk, which is logged once, not at each check

    def start(self, cache: Path, poll_seconds: float, stopping: threading.Event) -> None:
        """Copy the versions from object storage to the folder `cache`, and look for new ones there.

        Raises TfshipError. Does nothing for a directory.
        """
        if is_url(self.base_path):
            # Imported only here, since the main process of a server with workers otherwise needs no NumPy.
            from tfship.export.storage.cache import VersionCache
            from tfship.serving.models.mirror import Mirror

            versions = VersionCache(self.base_path, cache)
            self.mirror = Mirror(self.name, versions, self.policy, poll_seconds, stopping, self.numbers)
            self.mirror.start()

    def scan(self) -> dict[int, Path]:
        """Return the directories of the available versions. Raises OSError if the base path can't be read."""
        return self.mirror.scan() if self.mirror else store.scan(Path(self.base_path))

    def prepare(self, policy: Any) -> None:
        """Copy the versions that another version policy selects, if they are in object storage. Raises TfshipError."""
        if self.mirror:
            self.mirror.sync(policy)

    def close(self) -> None:
        """Stop looking for versions in object storage."""
        if self.mirror:
            self.mirror.close()

    def numbers(self) -> set[int]:
        """Return the numbers of the versions that may be in use."""
        return {version.number for version in list(self.versions.values()) if not version.retired}

    def view(self) -> ModelView:
        """Return the model's state for requests."""
        newest_first = sorted(self.versions.values(), key=lambda each: each.number, reverse=True)
        return ModelView(
            tuple(VersionStatus(each.number, each.state, each.code, each.message) for each in newest_first),
            self.labels,
            {each.number: each.key for each in newest_first if each.state is State.AVAILABLE},
            is_configured=not self.removed,
        )
