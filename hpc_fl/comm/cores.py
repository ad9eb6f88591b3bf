"""How many cores this process may use. Standard library only."""

import math
import os
from pathlib import Path
from typing import Final

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def _quota_cores(path: Path = _QUOTA) -> int | None:
    """The container's limit on CPU time, in cores rounded up; None without one (cgroup v2)."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))


def available_cores() -> int:
    """Cores that this process may use: the least of its affinity, the container's quota and Slurm's share.

    Slurm's number counts where it does not bind processes (TaskPlugin=task/none): SLURM_CPUS_ON_NODE.
    """
    slurm = os.environ.get("SLURM_CPUS_ON_NODE", "")
    limits = [len(os.sched_getaffinity(0)), _quota_cores(), int(slurm) if slurm.isdecimal() else None]
    return max(1, min(limit for limit in limits if limit is not None))
