"""Compressed runs learn what uncompressed ones do: the convergence benchmark at a reduced size."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from hpc_fl.bench.convergence import CASES
from hpc_fl.bench.convergence import run as run_convergence
from hpc_fl.comm.inprocess import solo
from hpc_fl.config import make_config
from hpc_fl.errors import ConfigError
from hpc_fl.session import Session
from hpc_fl.telemetry import read_jsonl

ROUNDS = 60
SMALL = {
    "name": "small",
    "rounds": ROUNDS,
    "data": "digits",
    "partition": {"name": "dirichlet", "alpha": 0.5},
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 2, "batch_size": 16, "executor": "vmap", "optimizer": {"lr": 0.1}},
    "evaluate": {"every": ROUNDS, "parties": False},
    "telemetry": {"progress": False, "tensorboard": False, "report": False},
}
NEAR = 3.0
"""Points that a codec may stay behind after so few rounds: what is kept back has not all come yet."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """For so small a model a second thread costs more than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(folder: Path, codec: str, feedback: bool | None = None) -> tuple[float, float]:
    """Accuracy in per cent, and payload bytes over float32's, of one run."""
    exchange = {"codec": yaml.safe_load(codec), "error_feedback": feedback, "collective": "allgather"}
    result = Session(make_config({**SMALL, "exchange": exchange}), solo(), run_dir=folder).run()
    assert result.accuracy is not None
    return 100 * result.accuracy, read_jsonl(folder / "metrics.jsonl")[-1]["payload_ratio"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> float:
    return trained(tmp_path_factory.mktemp("dense") / "run", "identity")[0]


@pytest.mark.parametrize("name", CASES)
def test_every_codec_learns_and_is_smaller(name: str, dense: float, tmp_path: Path) -> None:
    accuracy, ratio = trained(tmp_path / "run", CASES[name].codec)
    assert accuracy >= dense - NEAR
    assert ratio < 0.6


def test_what_is_reached_with_one_percent_is_owed_to_error_feedback(dense: float, tmp_path: Path) -> None:
    assert trained(tmp_path / "run", CASES["topk1"].codec, feedback=False)[0] < dense - NEAR


@pytest.mark.usefixtures("mpi")
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    options = {"codec": "onebit", "rounds": "1", "seeds": "0", "ranks": "1", "config": str(path)}
    (record,) = run_convergence(options)
    assert (record.yardstick, record.unit, record.bytes) == ("dense", "%", 0)
    assert record.bar is not None
    assert record.holds is (record.seconds >= record.yardstick_seconds - 0.5)


def test_an_unknown_codec_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="topk10, topk1, onebit"):
        run_convergence({"codec": "topk2"})
