"""Sums over the rounds of a run, for the table at its end and for the report."""

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Reading(NamedTuple):
    """A value and the round that it belongs to."""

    round: int
    value: float


@dataclass(slots=True)
class Totals:
    """Running sums of metrics.jsonl records.

    All bytes are bytes sent; phase seconds are each round's maximum over ranks.

    `bytes_sent` maps a kind of traffic to its bytes by rank. A rank is numbered as in the world of each
    round, so after the world has shrunk a place in these lists may hold the bytes of more than one process.
    """

    rounds: int = 0
    bytes_sent: dict[str, list[int]] = field(default_factory=dict)
    phase_seconds: dict[str, float] = field(default_factory=dict)
    round_seconds: float = 0.0
    left_out: int = 0
    accuracy: Reading | None = None
    best_accuracy: Reading | None = None
    loss: Reading | None = None
    best_loss: Reading | None = None
    train_loss: Reading | None = None
    consensus_distance: Reading | None = None
    model_accuracy: Reading | None = None
    """The mean over parties of their own models' accuracy on the held-out samples."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Add one record; keys that it does not have count as nothing."""
        self.rounds += 1
        for kind, sent in record.get("bytes_sent", {}).items():
            self.bytes_sent[kind] = _added(self.bytes_sent.get(kind, []), sent)
        for phase, seconds in record.get("seconds", {}).items():
            self.phase_seconds[phase] = self.phase_seconds.get(phase, 0.0) + seconds
        self.round_seconds += record.get("round_seconds", 0.0)
        self.left_out += len(record.get("left_out", ()))
        self.train_loss = _reading(record, "train_loss") or self.train_loss
        self._add_evaluation(record)

    def _add_evaluation(self, record: Mapping[str, Any]) -> None:
        models = {"round": record["round"], **(record.get("model_accuracy") or {})}
        self.consensus_distance = _reading(record, "consensus_distance") or self.consensus_distance
        self.model_accuracy = _reading(models, "mean") or self.model_accuracy
        accuracy, loss = _reading(record, "accuracy"), _reading(record, "loss")
        if accuracy is not None:
            self.accuracy = accuracy
            if self.best_accuracy is None or accuracy.value > self.best_accuracy.value:
                self.best_accuracy = accuracy
        if loss is not None:
            self.loss = loss
            if self.best_loss is None or loss.value < self.best_loss.value:
                self.best_loss = loss

    @property
    def bytes_by_rank(self) -> list[int]:
        """Bytes of all kinds by rank."""
        total: list[int] = []
        for sent in self.bytes_sent.values():
            total = _added(total, sent)
        return total

    @property
    def bytes_total(self) -> int:
        """Bytes of all kinds and ranks."""
        return sum(sum(sent) for sent in self.bytes_sent.values())


def _added(total: list[int], more: list[int]) -> list[int]:
    if len(total) != len(more):
        width = max(len(total), len(more))
        total, more = (values + [0] * (width - len(values)) for values in (list(total), list(more)))
    return list(map(operator.add, total, more))


def _reading(record: Mapping[str, Any], key: str) -> Reading | None:
    """The finite value of `key`; None where the record has none (null stands for NaN in a file)."""
    value = record.get(key)
    return None if value is None or not math.isfinite(value) else Reading(record["round"], value)
