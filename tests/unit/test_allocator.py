"""What the process keeps of the memory that it frees."""

import os
import subprocess
import sys
from typing import Final

import pytest

_PROGRAM: Final = """
import ctypes, resource, sys
from hpc_fl.comm.allocator import keep_freed_memory

told = keep_freed_memory() if sys.argv[1] == "told" else False
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

def round_():
    blocks = [libc.malloc(1 << 20) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, 1 << 20)
    for block in blocks:
        libc.free(block)

for _ in range(3):
    round_()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    round_()
print(int(told), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def measured(word: str, **environment: str) -> tuple[bool, int]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, word],
        env=plain | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told, faults = map(int, done.stdout.split())
    return bool(told), faults


def test_rounds_touch_no_new_pages() -> None:
    told, faults = measured("told")
    assert told
    assert faults < 100, "ten rounds of 8 MB"
    assert measured("not told")[1] > 1000, "without it each round's 8 MB go back to the system"


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(name: str) -> None:
    value = "0" if name.startswith("MALLOC") else "glibc.malloc.trim_threshold=0"
    told, faults = measured("told", **{name: value})
    assert not told
    assert faults > 1000
