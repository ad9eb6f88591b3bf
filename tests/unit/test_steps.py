"""The usual steps of compressed gossip, and that consensus is reached with them."""

from __future__ import annotations

import math

import pytest
import torch

from hpc_fl.collectives import ChocoMixer, SqueezeMixer, steps
from hpc_fl.collectives.mixer import Mixer
from hpc_fl.collectives.steps import normal_share, usual_eta, usual_gamma
from hpc_fl.comm.inprocess import solo
from hpc_fl.compression import (
    BF16,
    QSGD,
    Chain,
    Identity,
    LowRank,
    OneBit,
    Payload,
    RandomK,
    SignSGD,
    Ternary,
    TopK,
)
from hpc_fl.compression.base import Base
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.topology import Schedule, ring

N = 2048
NODES = 8
MANY = 1_001_000
"""More than a sample."""

CHOCO: dict[str, tuple[Base, float]] = {
    "top-k 10%": (TopK(ratio=0.1), 1e-3),
    "top-k 5%": (TopK(ratio=0.05), 0.03),
    "top-k 1%": (TopK(ratio=0.01), 0.4),
    "sign": (OneBit(), 0.1),
    "sign by block": (OneBit(block=64), 0.02),
    "random-k 10%": (RandomK(ratio=0.1), 0.15),
    "ternary 5%": (Ternary(ratio=0.05), 0.05),
    "top-k 5%, 8 bits": (Chain(TopK(ratio=0.05), QSGD(width=8)), 0.05),
    "8 bits": (QSGD(width=8, block=64), 1e-5),
    "bf16": (BF16(), 1e-5),
}
"""To what share of what it was the consensus distance falls in 200 rounds on a ring of 8."""

SQUEEZE: dict[str, tuple[Base, float]] = {
    "top-k 10%": (TopK(ratio=0.1), 0.15),
    "top-k 5%": (TopK(ratio=0.05), 0.25),
    "sign": (OneBit(), 0.15),
    "4 bits": (QSGD(width=4), 0.05),
}


def distance(rows: torch.Tensor) -> float:
    return float((rows - rows.mean(0)).square().sum(1).mean().sqrt())


def left(mixer: Mixer, rounds: int) -> float:
    """The share of the consensus distance that is left."""
    rows = torch.randn(NODES, N, generator=torch.Generator().manual_seed(1))
    before, matrix = distance(rows), Schedule(ring(NODES)).matrix(0)
    for round_ in range(rounds):
        mixer.mix(rows, matrix, round_)
    return distance(rows) / before


@pytest.mark.parametrize(("codec", "share"), CHOCO.values(), ids=CHOCO)
def test_choco_reaches_consensus(codec: Base, share: float) -> None:
    placement = (tuple(range(NODES)),)
    mixer = ChocoMixer(solo(), Ledger(), placement, codec, gamma=usual_gamma(codec, N))
    assert left(mixer, 200) <= share


@pytest.mark.parametrize(("codec", "share"), SQUEEZE.values(), ids=SQUEEZE)
def test_deep_squeeze_comes_near_it(codec: Base, share: float) -> None:
    placement = (tuple(range(NODES)),)
    mixer = SqueezeMixer(solo(), Ledger(), placement, codec, eta=usual_eta(codec, N))
    assert left(mixer, 200) <= share


@pytest.mark.parametrize(
    ("codec", "share"),
    [(Identity(), 1.0), (OneBit(), 2 / math.pi), (TopK(ratio=0.05), 0.28), (RandomK(ratio=0.1), 0.1)],
)
def test_the_share_of_normal_numbers(codec: Base, share: float) -> None:
    assert normal_share(codec, 100_000) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "codec",
    [
        *(codec for codec, _ in CHOCO.values()),
        TopK(ratio=1e-6),
        TopK(k=3000),
        TopK(k=300_000),
        TopK(ratio=0.01, segments=(3, MANY - 3)),
        RandomK(k=3000),
        Ternary(k=3000),
        Chain(TopK(k=3000), QSGD(width=8)),
        OneBit(segments=(3, MANY - 3)),
        OneBit(block=300_000),
        QSGD(width=2, block=400_000),
        LowRank(rank=4, shapes=((1001, 1000),)),
        SignSGD(),
    ],
    ids=repr,
)
def test_a_sample_tells_the_share_of_all(codec: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    found = normal_share(codec, MANY)
    monkeypatch.setattr(steps, "_SAMPLE", MANY)
    assert found == pytest.approx(normal_share(codec, MANY), rel=0.01, abs=0.002)


def test_of_many_elements_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    encode = OneBit.encode

    def seen(self: OneBit, x: torch.Tensor) -> Payload:
        lengths.append(len(x))
        return encode(self, x)

    monkeypatch.setattr(OneBit, "encode", seen)
    assert normal_share(OneBit(), MANY) == normal_share(OneBit(segments=(MANY,)), MANY)
    assert lengths == [1 << 18, MANY]


@pytest.mark.parametrize("n", [0, 1, 2, 70_000])
@pytest.mark.parametrize("codec", [case[0] for case in CHOCO.values()], ids=CHOCO)
def test_steps_are_above_zero_and_one_at_most(codec: Base, n: int) -> None:
    for usual in (usual_gamma, usual_eta):
        assert 0 < usual(codec, n) <= 1
        assert usual(codec, n) == usual(codec, n)
