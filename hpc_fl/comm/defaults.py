"""What Open MPI and torch can only be told before they start: variables that the user has not set.

Open MPI reads them when ``mpi4py.MPI`` is first imported, torch when it first allocates. Other MPIs do not
read them. Imports the standard library only.
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
    found = {
        "OMPI_MCA_btl_tcp_eager_limit": str(EAGER_BYTES),
        # Tensors of 2 MB and more in huge pages, where the system leaves that to the program (madvise, as
        # Debian does). On an EPYC: 1-bit of 25 million elements 5.9 and 5.5 ms, unpack and add 3.7 and 3.1;
        # a round of the cifar shape 1.53 and 1.46 s.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    if not _INFINIBAND.exists():
        # Open MPI 5.0.11 else prints an error on every rank when the first window is made.
        found["OMPI_MCA_osc"] = "^ucx"
    return found


def prepare() -> None:
    """Puts into the environment what is not there yet."""
    for name, value in defaults().items():
        os.environ.setdefault(name, value)
