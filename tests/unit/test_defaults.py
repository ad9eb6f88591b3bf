"""What libraries are told before they start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_fl.comm.defaults import defaults, prepare

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
IN_HUGE_PAGES = """
from hpc_fl.comm import runtime
runtime.start()
import torch
def huge():
    lines = open("/proc/self/smaps").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))
before = huge()
tensor = torch.ones(8 << 20)
print(huge() - before)
"""


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {"OMPI_MCA_btl_tcp_eager_limit": "4096"}
    monkeypatch.setattr(os, "environ", dict(mine))
    prepare()
    assert os.environ == defaults() | mine


@pytest.mark.parametrize(("said", "kilobytes"), [(None, 30 << 10), ("0", 0)], ids=["ours", "the user's"])
def test_large_tensors_lie_in_huge_pages(said: str | None, kilobytes: int) -> None:
    """Of 32 MB nearly all; none where the user says so, unless the system gives them to all programs."""
    system = HUGE_PAGES.read_text() if HUGE_PAGES.exists() else "[never]"
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    env |= {} if said is None else {"THP_MEM_ALLOC_ENABLE": said}
    done = subprocess.run(
        [sys.executable, "-c", IN_HUGE_PAGES],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = int(done.stdout)
    if "[madvise]" in system:
        assert (found >= kilobytes) if kilobytes else (found == 0)
    else:
        assert (found == 0) == ("[never]" in system)
