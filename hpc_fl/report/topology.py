"""topology.json: who mixes with whom in a run with gossip, as its run folder says."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from hpc_fl.errors import HpcFlError

TOPOLOGY_FILE: Final = "topology.json"


class Edge(NamedTuple):
    """``source`` sends to ``target``, which takes it with ``weight``."""

    source: int
    target: int
    weight: float


@dataclass(frozen=True)
class Topology:
    """The edges of each step of one period, or of its first steps; ``ranks``: the rank of each node.

    ``gap`` (spectral) and ``rounds_to_consensus`` are None where there is none; ``period`` in rounds, None
    where the steps do not repeat.
    """

    name: str
    size: int
    directed: bool
    gap: float | None
    rounds_to_consensus: float | None
    period: int | None
    steps: tuple[tuple[Edge, ...], ...]
    ranks: tuple[int, ...]


def read_topology(path: Path) -> Topology | None:
    """Return what the file says, None where there is no file. Raises HpcFlError when it is damaged."""
    if not path.is_file():
        return None
    try:
        return _topology(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as error:
        raise HpcFlError(
            f"{path} is no description of a topology ({error}); remove it to report without a drawing"
        ) from error


def _topology(found: dict[str, Any]) -> Topology:
    size, ranks = int(found["size"]), tuple(map(int, found["ranks"]))
    steps = tuple(tuple(Edge(int(j), int(i), float(w)) for j, i, w in step) for step in found["steps"])
    if not steps:
        raise ValueError("it has no step")
    if len(ranks) != size:
        raise ValueError(f"{size} nodes, but the ranks of {len(ranks)}")
    if any(not 0 <= node < size for step in steps for edge in step for node in edge[:2]):
        raise ValueError(f"an edge leads to a node that is not one of 0 to {size - 1}")
    return Topology(
        name=str(found["name"]),
        size=size,
        directed=bool(found["directed"]),
        gap=found["gap"],
        rounds_to_consensus=found["rounds_to_consensus"],
        period=found["period"],
        steps=steps,
        ranks=ranks,
    )
