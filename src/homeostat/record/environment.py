"""Where a run happened: versions, machine, process. Read once; nothing here initialises an accelerator."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch


def environment() -> dict[str, Any]:
    """Versions, platform, devices, cores and threads, JSON-friendly."""
    return {
        "homeostat": _version(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "devices": device_names(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def device_names() -> list[str]:
    """The processor, and every GPU once the script itself has initialised CUDA.

    Asking for a GPU's name creates a CUDA context, after which a script that forks would break; so nothing is asked
    before the script did it, and the record asks again when it is closed.
    """
    names = [_processor()]
    if torch.cuda.is_initialized():
        names += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names


def _version() -> str:
    try:
        return metadata.version("homeostat")
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def birth_of(pid: int) -> str:
    """When a process started, in the system's own clock ticks; "" where the system does not tell (not Linux, gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def alive(pid: int, birth: str) -> bool:
    """Whether that process of this machine still runs; a later process of the same id does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return birth_of(pid) == birth
