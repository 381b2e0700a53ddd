"""The machine and the package versions, as recorded in every card and result file."""

import os
import platform
from importlib import metadata
from pathlib import Path

__all__ = ["describe", "has_bfloat16"]

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy", "pillow", "grpcio", "ngh2")


def describe() -> dict[str, object]:
    """Return CPU, usable cores, operating system, Python version and the versions of the relevant packages."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 natively; otherwise bfloat16 is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & set(_cpuinfo("flags").split()))


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """Return `field` of the first processor in Linux' /proc/cpuinfo, or an empty text."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return value.strip()
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
