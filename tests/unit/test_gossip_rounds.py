"""Runs of parties with models of their own: the laws over threads, and what goes wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import gossip_training_laws
from laws.gossip_training_laws import gossip, models_of

from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.config import make_config
from hpc_fl.errors import ConfigError
from hpc_fl.telemetry import read_jsonl


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("law", gossip_training_laws.LAWS)
def test_law(law: Callable[[Transport, Path], None], tmp_path: Path) -> None:
    run_ranks(1, lambda transport: law(transport, tmp_path))


def spoilt(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss that is not finite for class 2."""
    loss = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    return torch.where(targets == 2, torch.inf, 1.0) * loss


def test_a_party_whose_work_is_not_finite_is_named_and_harms_nobody(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "exchange": {"topology": "ring"},
        "partition": {"name": "shards", "labels_per_party": 1},
        "training": {**gossip_training_laws.PLAIN, "loss": f"{__name__}:spoilt"},
    }
    session = gossip(solo(), tmp_path / "run", **changes)
    left_out = [record["left_out"] for record in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert left_out[0]
    assert left_out == left_out[:1] * 4
    assert all(model.isfinite().all() for model in models_of(session).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "sgp"}, "strategy.name: got 'sgp' without exchange.topology"),
        ({"strategy": "fedadam", "exchange": {"topology": "ring"}}, "there is no server"),
        ({"strategy": {"name": "fedavg", "lr": 0.5}, "exchange": {"topology": "ring"}}, "fedavg as it is"),
        ({"exchange": {"topology": "nonsense"}}, "exchange.topology"),
        ({"exchange": {"topology": "one_peer_exponential", "codec": "topk"}}, "the same neighbours"),
        ({"exchange": {"topology": "ring", "codec": "signsgd"}}, "which it cannot mix"),
        ({"exchange": {"topology": "ring", "codec": "auto"}}, "which it cannot mix"),
        ({"exchange": {"topology": "ring", "codec": "topk", "gossip": {"method": "dense"}}}, "gossip.method"),
        ({"exchange": {"topology": "ring", "gossip": {"step": 0.5}}}, "takes whole steps"),
        ({"exchange": {"topology": "ring", "warmup": 3}}, "is for an allreduce"),
        ({"exchange": {"topology": "ring", "error_feedback": True}}, "is for an allreduce"),
        ({"exchange": {"gossip": {"step": 0.5}}}, "without exchange.topology"),
        (
            {"exchange": {"topology": "ring", "codec": "topk", "gossip": {"step": 1.5}}},
            "exchange.gossip.step",
        ),
        ({"strategy": "sgp", "exchange": {"topology": "hierarchical"}}, "expected dpsgd"),
        ({"strategy": "adpsgd", "exchange": {"topology": "exponential"}}, "an undirected topology"),
        (
            {"strategy": "adpsgd", "exchange": {"topology": "ring", "gossip": {"weights": "uniform"}}},
            "has its own",
        ),
        (
            {
                "strategy": "quasi_global",
                "exchange": {"topology": "ring"},
                "training": {"optimizer": "Adam"},
            },
            "expected SGD",
        ),
        ({"strategy": "d2", "exchange": {"topology": "exponential"}}, "needs symmetric weights"),
        ({"strategy": "sgp", "exchange": {"topology": "ring", "codec": "topk"}}, "doubly stochastic weights"),
        (
            {"cohort": {"name": "uniform", "size": 2}, "exchange": {"topology": "ring", "codec": "topk"}},
            "need all parties",
        ),
        (
            {
                "strategy": "quasi_global",
                "exchange": {"topology": "ring"},
                "training": {"optimizer": {"momentum": 0.9}},
            },
            "which takes its place",
        ),
        (
            {
                "strategy": "gradient_tracking",
                "exchange": {"topology": "ring"},
                "training": {"optimizer": {"momentum": 0.9}},
            },
            "until they diverge",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(changes)


@pytest.mark.parametrize(
    "instead",
    [
        {"strategy": "dpsgd", "cohort": "all"},
        {"exchange": {"topology": "ring", "codec": "topk", "gossip": {"method": "squeeze"}}},
        {"exchange": {"topology": "ring", "codec": "bf16"}},
    ],
)
def test_what_a_refusal_of_choco_expects_is_taken(instead: dict[str, Any]) -> None:
    refused = {
        "strategy": "sgp",
        "cohort": {"name": "uniform", "size": 2},
        "exchange": {"topology": "ring", "codec": "topk"},
    }
    with pytest.raises(ConfigError, match="expected cohort: all and another strategy than sgp, or exchange"):
        make_config(refused)
    make_config(refused | instead)


def test_a_topology_that_parties_do_not_fit_is_refused_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exchange.topology: hypercube: .*6"):
        gossip(solo(), tmp_path / "run", exchange={"topology": "hypercube"})


@pytest.mark.parametrize(
    ("strategy", "weights", "message"),
    [
        ("dpsgd", [[0.5, 0.5, 0.5], [0.25, 0.5, 0], [0.25, 0, 0.5]], "DPSGD cannot mix"),
        ("d2", [[0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]], "D2 needs"),
    ],
)
def test_weights_that_the_algorithm_cannot_mix_are_refused(
    strategy: str, weights: list[list[float]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in weights))
    topology = {"name": "file", "path": str(path)}
    with pytest.raises(ConfigError, match=f"exchange.topology: .*{message}"):
        gossip(solo(), tmp_path / "run", parties=3, strategy=strategy, exchange={"topology": topology})
