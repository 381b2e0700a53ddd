"""Number of cores available to this process, by its CPU affinity and the CPU quotas of its cgroups."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["cores", "quota"]


def cores(root: Path = Path("/")) -> int:
    """Return the number of cores available to this process, at least 1; `root` contains `proc` and the cgroups."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota(root)
    return allowed if limit is None else min(allowed, limit)


def quota(root: Path) -> int | None:
    """Return the smallest CPU quota of this process's cgroups and their ancestors; None if there is none.

    It is a number of cores, rounded up. Both versions of cgroups count; files that are missing or that can't be
    understood don't.
    """
    groups = _groups(_text(root / "proc/self/cgroup"))
    limits = [
        _limit(root / folder.relative_to("/"), mount.controller)
        for mount in _mounts(_text(root / "proc/self/mountinfo"))
        if mount.controller in groups
        for folder in _folders(mount, groups[mount.controller])
    ]
    return min((limit for limit in limits if limit is not None), default=None)


class _Mount(NamedTuple):
    """A mounted hierarchy: its `controller` ("" for version 2), the group that is mounted, and where."""

    controller: str
    group: PurePosixPath
    point: PurePosixPath


def _groups(text: str) -> dict[str, PurePosixPath]:
    """Return the process's group by controller ("" for version 2), from the contents of /proc/self/cgroup."""
    found = {}
    for line in text.splitlines():
        # hierarchy:controllers:path
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if path.startswith("/"):
                found[controller] = _path(path)
    return found


def _mounts(text: str) -> Iterator[_Mount]:
    """Yield the mounts of version 2, and of version 1's controller cpu, from the contents of /proc/self/mountinfo."""
    for line in text.splitlines():
        # id parent device root point options [tags …] - type source options
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(kind) < 3 or not fields[4].startswith("/"):
            continue
        controllers = kind[2].split(",")
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in controllers):
            controller = "" if kind[0] == "cgroup2" else "cpu"
            yield _Mount(controller, *map(_path, fields[3:5]))


def _path(field: str) -> PurePosixPath:
    """Return an absolute path; octal escapes, such as that of a space, are replaced."""
    text = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)
    return PurePosixPath("/" + text.lstrip("/"))


def _folders(mount: _Mount, group: PurePosixPath) -> list[PurePosixPath]:
    """Return the directories of `group` and of its ancestors.

    A container may see only a part of the hierarchy. If `group` is outside of it, only the mounted group counts.
    """
    inside = group.is_relative_to(mount.group) and ".." not in group.parts
    folder = mount.point / group.relative_to(mount.group) if inside else mount.point
    return [each for each in (folder, *folder.parents) if each.is_relative_to(mount.point)]


def _limit(folder: Path, controller: str) -> int | None:
    """Return the quota of the cgroup at `folder` in cores, rounded up, or None."""
    if controller:
        words = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    else:
        words = _text(folder / "cpu.max").split()
    # No quota is "max" in version 2 and -1 in version 1.
    if len(words) != 2 or not all(re.fullmatch("0*[1-9][0-9]{0,18}", word) for word in words):
        return None
    microseconds, period = map(int, words)
    return -(-microseconds // period)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (OSError, ValueError):  # ValueError: the path contains a NUL character
        return ""
