"""The environment of a run: versions, machine, process. Reading it initialises no accelerator."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from homeostat.core.signals import pass_on


def environment() -> dict[str, Any]:
    """Versions, platform, devices, cores and threads, JSON-friendly."""
    return {
        "homeostat": version(),
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
    """The processor, and all GPUs if the script has initialised CUDA.

    Reading the name of a GPU creates a CUDA context, which breaks scripts that fork later. So GPUs are read only after
    the script has initialised CUDA, and again when the record is closed.
    """
    names = [_processor()]
    if torch.cuda.is_initialized():
        names += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return names


def version() -> str:
    """The installed version of Homeostat."""
    try:
        return metadata.version("homeostat")
    except metadata.PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError as error:
        pass_on(error)
    return platform.processor() or platform.machine()


def birth_of(pid: int) -> str:
    """Start time of a process in the system's clock ticks; "" if it is unknown (not Linux, or the process is gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError) as error:
        pass_on(error)
        return ""


def alive(pid: int, birth: str) -> bool:
    """Whether a process of this machine still runs; a later process with the same id does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError as error:
        pass_on(error)
        return False
    except OSError as error:
        pass_on(error)
    return birth_of(pid) == birth
