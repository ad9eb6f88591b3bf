"""Which ranks have started MPI, and which have ended in order: told to the launcher through files.

Under ULFM mpirun says neither: it waits for ever for a rank that dies before MPI has started, and its exit
code is 0 when a signal kills a rank. Standard library only.
"""

import atexit
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from hpc_fl.errors import TransportError

ROLL_FOLDER: Final = "HPC_FL_ROLL_FOLDER"
"""Environment variable: the folder of this machine in which the ranks sign in and out, for `launch`."""
_IN: Final = "in-"
_OUT: Final = "out-"
_NAMED: Final = 8


def sign_in(rank: int) -> None:
    """Tell the launcher, where it asks, that MPI has started on this rank, and later that it ends in order.

    In order is any way on which Python comes to its end: the script's last line, sys.exit, an exception. The
    exit code comes through mpirun. A rank that is killed, crashes, aborts or calls os._exit never signs out.
    Raises TransportError where the launcher's folder cannot be written.
    """
    folder = os.environ.get(ROLL_FOLDER)
    if folder is None:
        return
    try:
        # An empty file: it is there or not, and nobody can read half of it.
        os.close(os.open(f"{folder}/{_IN}{rank}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    except OSError as error:
        raise TransportError(
            f"rank {rank} cannot sign in with its launcher: {error}; all ranks must see that folder: set "
            "TMPDIR, or start with --no-ulfm"
        ) from error
    atexit.register(_sign_out, Path(folder, f"{_OUT}{rank}"), os.getpid())


def _sign_out(sign: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child has this handler too
        with suppress(OSError):  # the launcher may be gone, and its folder with it
            sign.touch()


class RollCall:
    """What the launcher of `ranks` ranks knows of them: the files that they leave in `folder`."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.folder, self.ranks = folder, ranks

    def not_started(self) -> list[int]:
        """The ranks on which MPI has not started."""
        return self._without(_IN)

    def not_ended(self) -> list[int]:
        """The ranks that have not ended in order; they may still run."""
        return self._without(_OUT)

    def _without(self, sign: str) -> list[int]:
        there = {file.name for file in self.folder.iterdir()}
        return [rank for rank in range(self.ranks) if f"{sign}{rank}" not in there]


def named(ranks: list[int]) -> str:
    """For people: "rank 3", "ranks 0, 1", and of many the first ones."""
    numbers = ", ".join(map(str, ranks[:_NAMED]))
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {numbers}{more}"
