"""How many cores a process may use, by cgroups of both versions."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tfship.serving.inference.batching_config import BatchingParameters
from tfship.serving.server import settings
from tfship.serving.server.cpu_cores import cores, quota

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
)


def _root(folder: Path, cgroup: str | None, mountinfo: str | None, files: Mapping[str, str]) -> Path:
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (("cgroup", cgroup), ("mountinfo", mountinfo)):
        if text is not None:
            texts[f"proc/self/{name}"] = text
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return folder


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),  # the root group has no such file
        ("0::/a/b\n", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "max 100000", "cpu.max": "9 1"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "500000 100000", "other/cpu.max": "1 1"}, 5),
        # Another namespace's group: that of the mount counts.
        ("0::/../../x\n", {"cpu.max": "400000 100000", "x/cpu.max": "1 1"}, 4),
        ("1:name=systemd:/a\n0::/b\n", {"a/cpu.max": "1 1", "b/cpu.max": "7 1"}, 7),
        ("0::/with:colon\n", {"with:colon/cpu.max": "6 1"}, 6),
        *(
            ("0::/\n", {"cpu.max": odd}, None)
            for odd in (
                "",
                "x y",
                "1",
                "1 0",
                "0 1",
                "-1 1",
                "1 2 3",
                "1e3 1",
                "²",
                "9" * 5000 + " 1",
                "\xff\xfe",
            )
        ),
    ],
)
def test_version_2(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int | None) -> None:
    assert quota(_root(tmp_path, cgroup, V2, files)) == expected


def _cfs(group: str, quota: str, period: str = "100000\n") -> dict[str, str]:
    folder = f"cpu,cpuacct/{group}"
    return {f"{folder}cpu.cfs_quota_us": quota, f"{folder}cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("4:cpu,cpuacct:/\n", _cfs("", "250000\n"), 3),
        ("4:cpu,cpuacct:/\n", _cfs("", "-1\n"), None),
        ("4:cpu,cpuacct:/a/b\n", _cfs("a/b/", "-1\n") | _cfs("a/", "200000\n") | _cfs("", "-1"), 2),
        ("4:cpu,cpuacct:/a/b\n", _cfs("a/b/", "100000\n") | _cfs("a/", "200000\n"), 1),
        ("4:cpuset:/a\n", _cfs("a/", "100000\n"), None),
        ("4:cpu,cpuacct:/\n", _cfs("", "", "\n"), None),
        ("4:cpu,cpuacct:/\n", _cfs("", "1", "0"), None),
        ("4:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "100000"}, None),
        ("", _cfs("", "100000\n"), None),
    ],
)
def test_version_1(tmp_path: Path, cgroup: str, files: dict[str, str], expected: int | None) -> None:
    assert quota(_root(tmp_path, cgroup, V1, files)) == expected


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = _cfs("a/", "300000") | {"unified/b/cpu.max": "200000 100000"}
    assert quota(_root(tmp_path, "4:cpu,cpuacct:/a\n0::/b\n", mounts, files)) == 2


def test_a_container_sees_its_own_group_at_the_mount_point(tmp_path: Path) -> None:
    """Without a namespace: /proc/self/cgroup has the path on the host, which is the mount's root."""
    mounts = V1.replace("0:29 /", "0:29 /docker/abc").replace(
        "/sys/fs/cgroup/cpu,", "/sys/fs/cgroup/a\\040b/cpu,"
    )
    files = {f"a b/{name}": text for name, text in (_cfs("", "400000") | _cfs("in/", "300000")).items()}
    assert quota(_root(tmp_path / "1", "4:cpu,cpuacct:/docker/abc\n", mounts, files)) == 4
    assert quota(_root(tmp_path / "2", "4:cpu,cpuacct:/docker/abc/in\n", mounts, files)) == 3
    assert quota(_root(tmp_path / "3", "4:cpu,cpuacct:/docker/other\n", mounts, files)) == 4


@pytest.mark.parametrize(
    "mounts",
    [
        "",
        "\n",
        "a b c",
        "1 2 3 / //x rw - cgroup2 a b",
        "1 2 3 / /x\\000 rw - cgroup2 a b",
        "1 2 3 / /x rw - cgroup2",
        "1 2 3 / x rw - cgroup2 a b",
        None,
    ],
)
def test_without_a_mounted_hierarchy_there_is_no_quota(tmp_path: Path, mounts: str | None) -> None:
    files = {"cpu.max": "1 1"}
    assert quota(_root(tmp_path / "1", "0::/\n", mounts, files)) is None
    assert quota(_root(tmp_path / "2", None, V2, files)) is None
    assert quota(_root(tmp_path / "3", "no colon\n::\n0::relative\n", V2, files)) is None


def test_cores_are_the_smaller_of_affinity_and_quota(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert cores(tmp_path) == allowed
    assert cores(_root(tmp_path / "1", "0::/\n", V2, {"cpu.max": "1 1"})) == 1
    assert cores(_root(tmp_path / "2", "0::/\n", V2, {"cpu.max": f"{allowed + 1} 1"})) == allowed
    assert settings.cores() == BatchingParameters().num_batch_threads == cores()
