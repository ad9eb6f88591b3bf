"""What the launcher sees from outside of a job that cannot end by itself. Standard library only."""

import time
from pathlib import Path
from typing import Final, Protocol

from hpc_fl.comm.rollcall import RollCall, named

_DESERTED: Final = 5.0
_ABSENT: Final = 4.0
_STRANDED: Final = 5.0
_RANK: Final = b"OMPI_COMM_WORLD_RANK="


class Watch(Protocol):
    """Sees one kind of trouble."""

    def trouble(self, mpirun: int) -> str | None:
        """Why the job of this process must be ended, else None. To be asked again and again."""
        ...


def watches(roll: RollCall | None) -> list[Watch]:
    """For a job; under ULFM, where it has a roll call, mpirun does less."""
    return [Deserted(None)] if roll is None else [Deserted(roll), Absent(roll), Stranded(roll)]


def lost(roll: RollCall | None) -> str:
    """Which ranks have not ended in order, for people; empty where there are none, or nobody has asked."""
    ranks = [] if roll is None else roll.not_ended()
    return f"{named(ranks)} did not end in order: killed, or crashed" if ranks else ""


class _Spell:
    """How long something has been so without a break."""

    def __init__(self) -> None:
        self._since: float | None = None

    def seconds(self, so: bool) -> float:
        if not so:
            self._since = None
            return 0.0
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since


class Deserted:
    """Whether mpirun stays though all that it started has ended.

    Seen, rarely and under load: where a rank died before MPI had started on another one.
    """

    def __init__(self, roll: RollCall | None) -> None:
        self._roll = roll
        self._had = False
        self._spell = _Spell()

    def trouble(self, mpirun: int) -> str | None:
        """Never where the system does not tell."""
        pids = children(mpirun)
        living = pids is None or any(map(runs, pids))
        self._had = self._had or living
        if self._spell.seconds(self._had and not living) <= _DESERTED:
            return None
        stays = f"mpirun did not end though its ranks had, {_DESERTED:g} s ago; it was ended"
        return "\n".join(filter(None, (lost(self._roll), stays)))


class Absent:
    """Whether a rank ended before MPI had started on all: under ULFM the others wait for it for ever.

    Once MPI has started on all, those that live are left alone.
    """

    def __init__(self, roll: RollCall) -> None:
        self._roll = roll
        self._all_started = False
        self._most = 0
        self._spell = _Spell()

    def trouble(self, mpirun: int) -> str | None:
        absent = [] if self._all_started else self._roll.not_started()
        self._all_started = not absent
        pids = None if self._all_started else children(mpirun)
        if pids is None:
            return None
        alive = [pid for pid in pids if runs(pid)]
        # A rank may end before it was ever seen, and mpirun takes time to start many: what counts is that
        # some are missing and no more come.
        missing = 0 < len(alive) < self._roll.ranks and len(alive) <= self._most
        self._most = max(self._most, len(alive))
        if self._spell.seconds(missing) <= _ABSENT:
            return None
        dead = sorted(set(absent) - set(map(_rank, alive)))
        return f"{named(dead)} ended before MPI had started on {named(absent)}; the job was ended"


class Stranded:
    """Whether all ranks that live have come to their end, and wait in MPI for one that died before its own.

    Seen under ULFM about once in thirty such jobs: MPI_Finalize does not return.
    """

    def __init__(self, roll: RollCall) -> None:
        self._roll = roll
        self._spell = _Spell()

    def trouble(self, mpirun: int) -> str | None:
        missing = self._roll.not_ended()
        at_its_end = 0 < len(missing) < self._roll.ranks
        living = {_rank(pid) for pid in children(mpirun) or () if runs(pid)} if at_its_end else set()
        if self._spell.seconds(bool(living) and living.isdisjoint({None, *missing})) <= _STRANDED:
            return None
        return f"{lost(self._roll)}; the others waited for it at their end, and were ended"


def children(pid: int) -> list[str] | None:
    """The processes that a process has started and not buried; None where the system does not tell."""
    try:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [child for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it has just ended, or there is no such file
        return None


def runs(pid: str) -> bool:
    """Whether a process is there and has not ended; one that waits to be buried has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _rank(pid: str) -> int | None:
    """The rank that a living child of mpirun is; None where it has just ended, or is none."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(word[len(_RANK) :]) for word in words if word.startswith(_RANK)), None)
