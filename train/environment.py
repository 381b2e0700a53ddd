"""What ran: the machine and the package versions that every card and result file records."""

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe"]

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow", "grpcio", "uvicorn", "starlette")


def describe() -> dict[str, object]:
    """Return CPU, usable cores, operating system, Python and the versions of the packages that matter."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
