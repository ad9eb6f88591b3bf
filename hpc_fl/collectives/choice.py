"""Which dense allreduce is the fastest at which size, measured once for each set of machines.

The answers are kept in a file, so that a run started again on the same machines computes the same bits: which
algorithm adds decides in which order.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.transport import Transport

SIZES: Final = (1 << 10, 1 << 15, 1 << 18, 1 << 20, 1 << 23)
"""Elements at which is measured: 4 KB, 128 KB, 1 MB, 4 MB, 32 MB."""

UP_TO: Final = (1 << 13, 1 << 17, 1 << 19, 1 << 22)
"""The largest buffers for which the measurement at each of SIZES speaks; the last one for all beyond."""

_TOO_LONG: Final = 0.06
"""Seconds: the last size is not measured where an allreduce would take longer, but done as the one before."""

_MARGINS: Final = (0.6, 0.75, 0.9, 0.9, 0.9)
"""Another algorithm than the first must take less than this share of its time, at each of SIZES: machines are
noisy, and the more so the shorter the message.
"""

_RULE: Final = 3
"""Raised when choices are made in another way: those kept by an earlier version are then not used."""

_SETTINGS: Final = tuple(f"OMPI_MCA_{kind}" for kind in ("btl", "coll", "mpi", "mtl", "osc", "pml"))


@dataclass(frozen=True)
class Choice:
    """Which algorithm, and the seconds that each one took (as the slowest rank saw it)."""

    name: str
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        took = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items())
        return f"{self.name} ({took})"


class Choices:
    """The choices for the ranks of a transport. Making one is collective: every rank must.

    ``measure(i)``: the seconds of each algorithm at ``SIZES[i]``, the usual one first; called on all ranks,
    with the same result. ``hosts``: every rank's machine, by rank.
    """

    def __init__(
        self, transport: Transport, hosts: Sequence[str], measure: Callable[[int], Mapping[str, float]]
    ) -> None:
        self._transport, self._measure = transport, measure
        self._world = _signature(transport, hosts)
        here = json.dumps(_read(cache_path()).get(self._world)) if transport.rank == 0 else None
        known = json.loads(broadcast_bytes(transport, None if here is None else here.encode()))
        self._known = [Choice(**choice) for choice in known or ()]

    def at(self, index: int) -> Choice:
        """The choice for buffers up to ``UP_TO[index]``; measures what is not known yet (collective)."""
        while len(self._known) <= index:
            self._known.append(self._next(len(self._known)))
            if self._transport.rank == 0:
                _write(cache_path(), self._world, self._known)
        return self._known[index]

    def _next(self, index: int) -> Choice:
        if index == len(SIZES) - 1:
            below, growth = self._known[index - 1], SIZES[index] / SIZES[index - 1]
            if growth * max(below.seconds.values()) > _TOO_LONG:
                scaled = {name: growth * seconds for name, seconds in below.seconds.items()}
                return Choice(below.name, scaled)
        seconds = self._measure(index)
        usual, best = next(iter(seconds)), min(seconds, key=seconds.__getitem__)
        return Choice(best if seconds[best] < _MARGINS[index] * seconds[usual] else usual, seconds)


def cache_path() -> Path:
    """Where choices are kept: ``$XDG_CACHE_HOME/hpc_fl/allreduce.json`` (default ``~/.cache``) of rank 0.

    Delete it to measure anew, as after a change of the network.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpc_fl" / "allreduce.json"


def _signature(transport: Transport, hosts: Sequence[str]) -> str:
    described = {
        "rule": (_RULE, SIZES, UP_TO, _MARGINS),
        "hosts": list(hosts),
        "transport": transport.name,
        "settings": sorted(kv for kv in os.environ.items() if kv[0].startswith(_SETTINGS)),
        "version": metadata.version("hpc_fl"),
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _write(path: Path, world: str, choices: list[Choice]) -> None:
    """A folder that cannot be written costs a measurement at the next start, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({**_read(path), world: [asdict(choice) for choice in choices]}, file)
        Path(file.name).replace(path)
    except OSError:
        return
