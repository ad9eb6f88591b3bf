"""Which parties take part in a round: drawn alike on every rank, without communication."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hpc_fl.counter import key
from hpc_fl.errors import ConfigError
from hpc_fl.training.seeding import Stream, integers, to_uniforms

_AHEAD: Final = 16
_DRAWS: Final = 1 << 16
"""So many rounds, or numbers, are drawn at once."""


class Cohort(Protocol):
    """A rule that names the parties of a round; pure: the same round gives the same parties on every rank."""

    def __call__(self, round_: int) -> tuple[int, ...]:
        """Party ids of round ``round_`` (from 0), ascending, each once."""
        ...

    def expected(self) -> int:
        """How many parties a round has (the mean, where it varies)."""
        ...


@dataclass(frozen=True)
class Everybody:
    """All parties, every round."""

    parties: int

    def __call__(self, round_: int) -> tuple[int, ...]:
        return tuple(range(self.parties))

    def expected(self) -> int:
        return self.parties


class Drawn:
    """``size`` different parties a round, drawn without replacement.

    ``weights`` (parties,) gives the chance of each to be drawn first (its number of samples, say); None draws
    uniformly. Weighted draws use the exponential-keys method (Efraimidis, Spirakis: Weighted random sampling
    with a reservoir, 2006). Raises :class:`ConfigError` when fewer than ``size`` parties can be drawn.
    """

    def __init__(self, parties: int, size: int, seed: int, weights: NDArray[np.int64] | None = None) -> None:
        eligible = parties if weights is None else int(np.count_nonzero(weights))
        if size > eligible:
            raise ConfigError(
                f"cohort.size: got {size}, but only {eligible} of {parties} parties can be drawn"
            )
        self._parties, self._size, self._seed = parties, size, seed
        self._rates = None if weights is None else weights / weights.sum()
        # A few rounds are drawn at once: with few parties it takes as long as one.
        self._ahead = max(1, min(_AHEAD, _DRAWS // parties))
        self._block = -1
        self._cohorts: list[tuple[int, ...]] = []

    def __call__(self, round_: int) -> tuple[int, ...]:
        block, place = divmod(round_, self._ahead)
        if block != self._block:
            self._block, self._cohorts = block, self._drawn(block * self._ahead)
        return self._cohorts[place]

    def _drawn(self, first: int) -> list[tuple[int, ...]]:
        """The cohorts of the rounds from ``first`` on."""
        names = [key(self._seed, Stream.COHORT, first + i) for i in range(self._ahead)]
        draws: NDArray[Any] = integers(names, self._parties)
        if self._rates is not None:
            with np.errstate(divide="ignore"):
                draws = -np.log(to_uniforms(draws)) / self._rates
        chosen = np.sort(draws.argpartition(self._size - 1, axis=1)[:, : self._size], axis=1)
        return [tuple(ids) for ids in chosen.tolist()]

    def expected(self) -> int:
        return self._size


class Listed:
    """The listed parties: round r takes list r, starting over after the last."""

    def __init__(self, rounds: Sequence[Sequence[int]], parties: int) -> None:
        for number, ids in enumerate(rounds):
            wrong = [i for i in ids if not 0 <= i < parties]
            if wrong or len(set(ids)) != len(ids) or not ids:
                what = f"party {wrong[0]}" if wrong else "no party" if not ids else "a party twice"
                raise ConfigError(
                    f"cohort.rounds[{number}]: names {what}; allowed are different ids of 0 to {parties - 1}"
                )
        self._rounds = tuple(tuple(sorted(ids)) for ids in rounds)

    def __call__(self, round_: int) -> tuple[int, ...]:
        return self._rounds[round_ % len(self._rounds)]

    def expected(self) -> int:
        return round(sum(map(len, self._rounds)) / len(self._rounds))
