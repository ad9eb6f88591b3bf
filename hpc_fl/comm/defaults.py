"""What Open MPI can only be told before it starts, by environment variables that the user has not set.

It reads them when ``mpi4py.MPI`` is first imported; other MPIs do not. Imports the standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

EAGER_BYTES: Final = 264 << 10
"""Over TCP a message up to this size is sent at once: a segment of our collectives (256 KB) and its header.

Open MPI asks the receiver first from 64 KB on. Two hosts have one connection: where both send, question and
answer wait behind all that the sockets hold (4 MB are 34 ms at 1 Gbit/s), and one direction rests. Four hosts
at 1 Gbit/s, 25 million float32, medians of those that ask and those that do not: pairs that exchange 0.87 and
0.82 s (the link's limit is 0.80), a ring both ways 1.79 and 1.66 (1.60), our ring allreduce 1.25 and 1.22
(1.20). MPI's own allreduce and Horovod's take as long with one as with the other.
"""

_INFINIBAND: Final = Path("/sys/class/infiniband")


def defaults() -> dict[str, str]:
    """The variables for a process on this machine, by name."""
    found = {"OMPI_MCA_btl_tcp_eager_limit": str(EAGER_BYTES)}
    if not _INFINIBAND.exists():
        # Open MPI 5.0.11 else prints an error on every rank when the first window is made.
        found["OMPI_MCA_osc"] = "^ucx"
    return found


def prepare() -> None:
    """Puts into the environment what is not there yet."""
    for name, value in defaults().items():
        os.environ.setdefault(name, value)
