"""What the evaluation of parties with own models must do, for any number of ranks and any placement."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.data import ArraySource, PartyStore
from hpc_fl.data.source import Array
from hpc_fl.flat import FlatModel, Rule
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.training.consensus import ConsensusEvaluator
from hpc_fl.training.evaluate import Scores
from hpc_fl.training.losses import LOSSES
from hpc_fl.training.parties import LocalBuffers

COUNTS = (4, 1, 0, 7, 3, 5, 2)
"""Samples of each party; party 2 has none."""
PARTIES = len(COUNTS)
Place = Callable[[int, int], Sequence[int]]


def in_turn(rank: int, ranks: int) -> Sequence[int]:
    """The parties of ``rank``: every ``ranks``-th one."""
    return range(rank, PARTIES, ranks)


def on_the_last(rank: int, ranks: int) -> Sequence[int]:
    """All parties on the last rank, the first one last."""
    return [*range(1, PARTIES), 0] if rank == ranks - 1 else ()


@dataclass
class Case:
    """A model and a task; ``rules``: which buffers a party keeps for itself."""

    module: Callable[[], nn.Module]
    loss: str = "cross_entropy"
    rules: dict[str, Rule] = field(default_factory=dict)

    def arrays(self, n: int, seed: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 5)).astype(np.float32)
        return x, rng.integers(0, 3, n) if self.loss == "cross_entropy" else x[:, :3] + 1

    def model(self) -> FlatModel:
        """The same on every rank: torch's own random stream is shared by the threads of a test."""
        model = FlatModel(self.module(), self.rules)
        model.load(torch.randn(model.n, generator=torch.Generator().manual_seed(99)).abs())
        return model

    def row(self, party: int) -> Tensor:
        """A party's model: the initial one, moved at random."""
        model = self.model()
        noise = torch.randn(model.n, generator=torch.Generator().manual_seed(party))
        return model.values + noise.abs()

    def kept(self, model: FlatModel, party: int) -> dict[str, Tensor]:
        """A party's own buffers."""
        return {name: like + party + 1 for name, like in model.local_state().items()}


CASES = {
    "classes": Case(lambda: nn.Linear(5, 3)),
    "regression": Case(lambda: nn.Linear(5, 3), loss="mse"),
    "averaged buffers": Case(lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))),
    "own buffers": Case(
        lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), rules={"*.running_*": "local"}
    ),
    "half": Case(lambda: nn.Linear(5, 3).to(torch.bfloat16)),
}


@dataclass
class Made:
    """An evaluator on this rank, and its parts."""

    evaluator: ConsensusEvaluator
    model: FlatModel
    hosted: Sequence[int]
    ledger: Ledger

    def rows(self, of: Callable[[int], Tensor]) -> Tensor:
        return torch.stack([*(of(party) for party in self.hosted), torch.empty(self.model.n)])[:-1]


def make(t: Transport, case: Case, place: Place = in_turn, *, spread: bool = True) -> Made:
    model, hosted, ledger = case.model(), place(t.rank, t.size), Ledger()
    own = [case.arrays(COUNTS[party], 100 + party) for party in hosted]
    x, y = (np.concatenate(parts) for parts in zip(*own, case.arrays(0, 0), strict=True))
    store = PartyStore(torch.from_numpy(x), torch.from_numpy(y), hosted, [COUNTS[party] for party in hosted])
    buffers = LocalBuffers(model)
    if model.has_local_state:
        buffers.restore({party: case.kept(model, party) for party in hosted})
    evaluator = ConsensusEvaluator(
        model,
        LOSSES[case.loss],
        ArraySource(*case.arrays(23, 7)),
        store,
        buffers,
        t,
        ledger,
        parties=PARTIES,
        spread=spread,
    )
    return Made(evaluator, model, hosted, ledger)


def alone(case: Case, values: Tensor, state: dict[str, Tensor], x: Array, y: Array) -> tuple[float, float]:
    """(loss, accuracy) of one model on samples, by torch's own means."""
    model = case.model()
    model.load(values)
    model.load_local_state(state)
    model.module.eval()
    with torch.no_grad():
        outputs, targets = model(torch.from_numpy(x)), torch.from_numpy(y)
        if case.loss == "mse":
            return float(nn.functional.mse_loss(outputs.double(), targets.double())), float("nan")
        right = (outputs.argmax(1) == targets).double().mean()
        return float(nn.functional.cross_entropy(outputs.double(), targets)), float(right)


def spread(values: Sequence[float]) -> dict[str, float]:
    ends = {"min": min(values), "max": max(values)}
    return ends | {"mean": float(np.mean(values)), "std": float(np.std(values))}


def close(record: dict[str, object], expected: dict[str, object]) -> None:
    assert record.keys() == expected.keys()
    for key, value in expected.items():
        assert record[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def law_spread_is_evaluating_one_by_one(t: Transport, case: Case) -> None:
    made, held_out = make(t, case), case.arrays(23, 7)
    rows = [case.row(party) for party in range(PARTIES)]
    kept = [case.kept(made.model, party) for party in range(PARTIES)]
    each = [alone(case, rows[p], kept[p], *held_out) for p in range(PARTIES)]
    own = [
        alone(case, rows[p], kept[p], *case.arrays(COUNTS[p], 100 + p)) for p in range(PARTIES) if COUNTS[p]
    ]
    mean = torch.stack(rows).double().mean(0)
    merged = {name: torch.stack([k[name].double() for k in kept]).mean(0) for name in kept[0]}
    loss, accuracy = alone(case, mean.float(), merged, *held_out)
    distance = (torch.stack(rows).double() - mean).square().sum(1).mean().sqrt()
    expected: dict[str, object] = {
        "loss": loss,
        "consensus_distance": float(distance),
        "model_loss": spread([loss for loss, _ in each]),
    }
    if case.loss == "cross_entropy":
        expected["accuracy"] = accuracy
        expected["party_accuracy"] = spread([right for _, right in own])
        expected["model_accuracy"] = spread([right for _, right in each])
    close(made.evaluator(made.rows(case.row)).record(), expected)


def law_every_rank_and_placement_gets_the_same(t: Transport, case: Case) -> None:
    found: list[Scores] = []
    for place in (in_turn, on_the_last):
        made = make(t, case, place)
        found.append(made.evaluator(made.rows(case.row)))
        said = json.dumps(found[-1].record()).encode() + made.model.values.numpy().tobytes()
        assert len(set(allgather_bytes(t, said))) == 1
    close(found[0].record(), found[1].record())


def law_equal_models_are_their_consensus(t: Transport, case: Case) -> None:
    made = make(t, case)
    rows = made.rows(lambda _: case.row(0))
    scores = made.evaluator(rows)
    torch.testing.assert_close(made.evaluator.mean(rows), case.row(0), rtol=t.size * 1.2e-7, atol=0)
    assert scores.consensus_distance is not None
    assert scores.consensus_distance <= t.size * 1.2e-7 * float(case.row(0).norm())
    if t.size == 1:
        assert scores.consensus_distance == 0
        assert torch.equal(made.evaluator.mean(rows), case.row(0))
    if case.loss == "cross_entropy" and not made.model.has_local_state:
        assert scores.model_accuracy is not None
        assert scores.model_accuracy["min"] == scores.model_accuracy["max"] == scores.accuracy


def law_the_consensus_model_is_left_and_the_rows_are_not_touched(t: Transport, case: Case) -> None:
    made = make(t, case)
    rows = made.rows(case.row)
    before = rows.clone()
    made.evaluator(rows)
    assert torch.equal(rows, before)
    assert torch.equal(made.model.values, made.evaluator.mean(rows))
    twin = case.model()
    twin.load(made.model.values)
    for parameter, expected in zip(made.model.parameters, twin.parameters, strict=True):
        assert torch.equal(parameter, expected)


def law_without_spread_the_rest_is_the_same(t: Transport, case: Case) -> None:
    whole, brief = make(t, case), make(t, case, spread=False)
    scores = whole.evaluator(whole.rows(case.row))
    bare = dataclasses.replace(scores, party_accuracy=None, model_accuracy=None, model_loss=None)
    close(brief.evaluator(brief.rows(case.row)).record(), bare.record())


def law_bytes_match_the_formula(t: Transport, case: Case) -> None:
    """Four sums and three moments of three spreads; with spread, the ends of these as well."""
    for spread_, messages in ((False, (13,)), (True, (13, 6))):
        made = make(t, case, spread=spread_)
        made.evaluator(made.rows(case.row))
        ring = [-(-2 * (t.size - 1) * 8 * count // t.size) for count in messages]
        mean = -(-2 * (t.size - 1) * 4 * made.model.n // t.size)
        assert made.ledger.take() == {"measuring": mean, "control": sum(ring)}


def law_a_model_that_diverged_shows(t: Transport, case: Case) -> None:
    """As NaN on every rank, whatever the order of the reduction."""
    made = make(t, case)
    broken = PARTIES - 2
    scores = made.evaluator(made.rows(lambda p: case.row(p) * (float("nan") if p == broken else 1)))
    assert scores.model_loss is not None
    assert scores.consensus_distance is not None
    assert all(
        np.isnan(value) for value in (scores.loss, scores.consensus_distance, *scores.model_loss.values())
    )


LAWS = [
    pytest.param(law, id=name.removeprefix("law_"))
    for name, law in list(globals().items())
    if name.startswith("law_")
]
"""All laws as pytest parameters."""
