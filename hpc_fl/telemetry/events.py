"""What happens in a run, as sinks see it.

Rounds are counted from 1; `rounds` is the number of the last one planned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Before the first round.

    `facts` are short texts for people, such as {"data": "digits", "strategy": "fedavg"}.
    """

    name: str
    run_dir: Path | None
    world_size: int
    parties: int
    parameters: int
    first_round: int
    rounds: int
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """After each round.

    `metrics` is the record of metrics.jsonl: JSON types only, not changed after it was emitted.
    """

    round: int
    rounds: int
    metrics: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PartyLeftOut:
    """Updates of these parties were not used in this round."""

    round: int
    party_ids: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointWritten:
    """A checkpoint is complete on disk. `best`: it is the best so far; `seconds`: wall time of writing it."""

    round: int
    path: Path
    best: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Notice:
    """One line that the person watching should read."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished:
    """After the last round.

    `reason`: "completed", "stopped by SIGTERM", ...; `seconds`: wall time of this session.
    """

    reason: str
    rounds_done: int
    seconds: float
    summary: Mapping[str, Any]


Event = RunStarted | RoundFinished | PartyLeftOut | CheckpointWritten | Notice | RunFinished
