"""What the round loop asks of the way in which rounds go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from hpc_fl.exchange import Mixed
from hpc_fl.strategies.strategy import PartyStates
from hpc_fl.training.evaluate import Scores


@dataclass(frozen=True)
class RoundState:
    """What the next round depends on: ``shared`` by name, the same on every rank, with ``params`` (n,) the
    values that a user of the model wants; ``parties``: of those hosted here.
    """

    shared: Mapping[str, Tensor]
    parties: PartyStates = field(default_factory=dict)


class Rounds(Protocol):
    """Made on every rank from equal parts; every rank must make the same calls."""

    @property
    def params(self) -> Tensor:
        """The values (n,) that were evaluated last, the same bits on every rank."""
        ...

    def step(self, round_: int, *, stop: bool) -> tuple[tuple[int, ...], Mixed]:
        """Round ``round_`` (from 0): the cohort, and how it went, the same on every rank. ``stop``: this rank
        asks all to stop.
        """
        ...

    def evaluate(self) -> Scores:
        """Measures what the rounds so far have made."""
        ...

    def state(self) -> RoundState:
        """For a checkpoint; the tensors are good until the next round."""
        ...

    def restore(self, state: RoundState) -> None:
        """The inverse of :meth:`state`, with the parties hosted here now."""
        ...

    def close(self) -> None:
        """Frees what is held for further rounds."""
        ...


def part(parties: PartyStates, prefix: str) -> PartyStates:
    """The party state whose names start with ``prefix``, without it; parties that have none are absent."""
    found = {
        party: {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for party, state in parties.items()
    }
    return {party: state for party, state in found.items() if state}


def joined(hosted: frozenset[int], parts: Mapping[str, PartyStates]) -> PartyStates:
    """The inverse of :func:`part`, for each of the parties ``hosted``."""
    return {
        party: {f"{name}.{k}": v for name, of in parts.items() for k, v in of.get(party, {}).items()}
        for party in sorted(hosted)
    }
