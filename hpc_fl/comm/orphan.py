"""A rank whose launcher has died ends too. Standard library only."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from hpc_fl.errors import EXIT_FAILURE

_GLANCE: Final = 1.0


@contextmanager
def no_orphan() -> Iterator[None]:
    """End this process within about a second of the death of the process that started it.

    A killed or crashed mpirun leaves its ranks behind (seen with Open MPI 5.0: they run on, and wait for ever
    for each other when one of them fails). The kernel's own way, PR_SET_PDEATHSIG, follows the thread that
    forked the rank, and mpirun forks in threads that end before it does. To be entered by a process that a
    launcher started, for a program started by hand may well outlive its shell.
    """
    parent, left = os.getppid(), threading.Event()
    watch = threading.Thread(target=_watch, args=(parent, left), name="hpc_fl-orphan", daemon=True)
    watch.start()
    try:
        yield
    finally:
        left.set()
        watch.join()


def _watch(parent: int, left: threading.Event) -> None:
    while not left.wait(_GLANCE):
        if os.getppid() != parent:
            with suppress(OSError):  # whoever read the output may be gone with the launcher
                sys.stderr.write(f"the process that started this rank, {parent}, is gone: this rank ends\n")
                sys.stderr.flush()
            os._exit(EXIT_FAILURE)
