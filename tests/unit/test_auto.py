"""The automatic choice of executor: measured when worth it, alike on all ranks, kept for the next run."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.data import PartyStore
from hpc_fl.flat import FlatModel
from hpc_fl.training import auto
from hpc_fl.training.batches import LocalSteps
from hpc_fl.training.executor import LocalWork
from hpc_fl.training.losses import CrossEntropy
from hpc_fl.training.optim import OptimizerSpec

WORK = LocalWork(LocalSteps(4, 2), OptimizerSpec(), CrossEntropy(), seed=0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def store_of(parties: int) -> PartyStore:
    rng = torch.Generator().manual_seed(0)
    n = 8 * parties
    return PartyStore(
        torch.randn(n, 6, generator=rng),
        torch.randint(0, 4, (n,), generator=rng),
        range(parties),
        [8] * parties,
    )


def choose(model: nn.Module, transport: Transport, *, parties: int = 20, rounds: int = 10**6) -> auto.Choice:
    torch.manual_seed(0)
    return auto.choose(FlatModel(model), store_of(parties), WORK, transport, cohort=parties, rounds=rounds)


def test_a_short_run_is_not_worth_measuring() -> None:
    assert choose(nn.Linear(6, 4), solo(), rounds=1).name == "loop"


def test_many_small_models_are_trained_together() -> None:
    choice = choose(nn.Linear(6, 4), solo())
    assert choice.name == "vmap", choice.reason


def test_a_model_that_cannot_be_batched_is_looped_and_said_why() -> None:
    choice = choose(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), solo())
    assert choice.name == "loop"
    assert "BatchNorm" in choice.reason


def test_the_choice_is_kept_for_the_next_run_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose(nn.Linear(6, 4), solo())
    assert len(json.loads(auto.cache_path().read_text())) == 1

    def never(*_: object) -> auto.Choice:
        raise AssertionError("measured again")

    monkeypatch.setattr(auto, "_measure", never)
    assert choose(nn.Linear(6, 4), solo()).name == first.name
    with pytest.raises(AssertionError, match="measured again"):
        choose(nn.Linear(6, 4), solo(), parties=21)


def test_a_damaged_or_unwritable_cache_costs_a_measurement_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto.cache_path().parent.mkdir(parents=True)
    auto.cache_path().write_text("{ half")
    assert choose(nn.Linear(6, 4), solo(), rounds=1).name == "loop"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert choose(nn.Linear(6, 4), solo(), rounds=1).name == "loop"


def test_all_ranks_choose_alike_even_one_without_parties() -> None:
    def rank(transport: Transport) -> str:
        torch.manual_seed(0)
        store = store_of(0 if transport.rank == 1 else 12)
        return auto.choose(FlatModel(nn.Linear(6, 4)), store, WORK, transport, cohort=12, rounds=10**6).name

    assert run_ranks(1, rank) == ["vmap"]
    assert len(set(run_ranks(2, rank))) == 1
