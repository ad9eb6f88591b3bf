"""Whole runs on one rank: what they leave behind, how they stop, what they refuse, how they go on."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from laws.training_laws import config, params_of, run
from torch import nn

import hpc_fl
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import TopK
from hpc_fl.data import from_arrays
from hpc_fl.errors import ConfigError, DataError, HpcFlError
from hpc_fl.session import Session
from hpc_fl.telemetry import read_jsonl


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def own_data() -> hpc_fl.Dataset:
    """Two blobs, 30 samples each, and a group column of 3 parties."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = rng.normal(size=(60, 4)).astype(np.float32) + 4 * y[:, None].astype(np.float32)
    return from_arrays("blobs", x, y, x[:20], y[:20], groups=np.arange(60) // 20)


def own_model() -> nn.Module:
    return nn.Linear(4, 2)


def test_a_library_user_trains_their_own_model_on_their_own_data(tmp_path: Path) -> None:
    mine = config(parties=3, partition="natural", rounds=20)
    result = hpc_fl.train(mine, model=own_model, dataset=own_data, run_dir=tmp_path / "run")
    assert result.accuracy == 1.0
    assert result.loss < 0.1
    assert result.outcome.rounds_done == 20
    assert result.outcome.stopped is None
    x, y = own_data().test.rows(np.arange(20))
    assert (result.model(torch.from_numpy(x)).argmax(1).numpy() == y).all(), "the model has the final values"


def test_a_run_leaves_its_folder(tmp_path: Path) -> None:
    session = run(
        solo(),
        tmp_path / "run",
        trace=True,
        telemetry={"progress": False},
        checkpoint={"every": 2, "keep": 1},
    )
    folder = tmp_path / "run"
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "config.yaml",
        "versions.json",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
        "tensorboard",
        "report.html",
        "curves.png",
        "trace.json",
    }
    assert hpc_fl.load_config(folder / "config.yaml") == config(
        trace=True, telemetry={"progress": False}, checkpoint={"every": 2, "keep": 1}
    )
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["packages"]["torch"] == torch.__version__
    names = {event["name"] for event in json.loads((folder / "trace.json").read_text())["traceEvents"]}
    assert {"train", "encode", "communicate", "decode", "evaluate"} <= names
    kept = [path.name for path in (folder / "checkpoints").iterdir() if path.is_dir()]
    assert "round-00000004" in kept
    assert session.federation.round == 4


def spoilt(value: float) -> Callable[[], hpc_fl.Dataset]:
    """The blobs with one bad value in party 1's data."""

    def make() -> hpc_fl.Dataset:
        data = own_data()
        x, y = data.train.rows(np.arange(60))
        x[25, 2] = value
        return from_arrays("spoilt", x, y, x[:20], y[:20], groups=np.arange(60) // 20)

    return make


@pytest.mark.parametrize(
    "exchange",
    [{"codec": "identity"}, {"codec": "onebit"}, {"codec": "onebit", "collective": "allgather"}],
    ids=["dense", "sharded", "allgather"],
)
@pytest.mark.parametrize("executor", ["loop", "vmap"])
def test_a_party_with_nan_is_left_out_and_named(
    tmp_path: Path, executor: str, exchange: dict[str, Any]
) -> None:
    mine = config(
        parties=3,
        partition="natural",
        rounds=3,
        training={"executor": executor, "batch_size": 8},
        exchange=exchange,
    )
    result = hpc_fl.train(mine, model=own_model, dataset=spoilt(float("nan")), run_dir=tmp_path / "run")
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [record["left_out"] for record in records] == [[1]] * 3
    assert all(record["weight"] == 40 for record in records)
    assert all(np.isfinite(record["train_loss"]) for record in records)
    assert result.accuracy == 1.0
    events = [e for e in read_jsonl(tmp_path / "run" / "events.jsonl") if e["event"] == "PartyLeftOut"]
    assert [e["party_ids"] for e in events] == [[1]] * 3


def test_everybody_left_out_changes_nothing(tmp_path: Path) -> None:
    def all_bad() -> hpc_fl.Dataset:
        x, y = np.full((6, 4), np.nan, np.float32), np.arange(6) % 2
        return from_arrays("bad", x, y, np.zeros((2, 4), np.float32), y[:2])

    mine = config(parties=2, partition="shuffle", rounds=2)
    session = Session(mine, solo(), model=own_model, dataset=all_bad(), run_dir=tmp_path / "run")
    before = params_of(session).clone()
    session.run()
    assert torch.equal(params_of(session), before)
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]["train_loss"] is None


def own_codec(ratio: float) -> TopK:
    """Named in configurations as unit.test_session:own_codec."""
    return TopK(ratio)


def test_a_users_own_codec_is_used_with_error_feedback(tmp_path: Path) -> None:
    section = {"codec": {"name": f"{__name__}:own_codec", "args": {"ratio": 0.2}}}
    own = run(solo(), tmp_path / "own", exchange=section)
    named = run(
        solo(),
        tmp_path / "named",
        exchange={"codec": {"name": "topk", "ratio": 0.2}, "collective": "allgather"},
    )
    assert torch.equal(params_of(own), params_of(named))
    assert sorted(own.federation.snapshot().parties[0]) == [
        "exchange.update.hint",
        "exchange.update.residual",
    ]


@pytest.mark.parametrize(
    ("exchange", "says"),
    [
        ({"codec": {"name": "topk", "k": 10**6}}, "exchange.codec: k = 1000000"),
        ({"codec": {"name": f"{__name__}:missing"}}, "exchange.codec.name"),
    ],
)
def test_a_codec_that_does_not_fit_is_refused(tmp_path: Path, exchange: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(solo(), tmp_path / "run", exchange=exchange)


def test_a_run_that_was_compressed_says_what_that_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        solo(),
        tmp_path / "run",
        exchange={"codec": "bf16", "collective": "allgather"},
        telemetry={"tensorboard": False, "report": False},
    )
    assert "50 % of float32" in capsys.readouterr().out


EDGES: dict[str, dict[str, Any]] = {
    "one class a party": {"parties": 3, "partition": {"name": "shards", "labels_per_party": 1}},
    "batch larger than the data": {"training": {"batch_size": 10_000, "executor": "loop"}},
    "all data in one batch": {"training": {"batch_size": None, "executor": "vmap"}},
    "one sample a party": {"parties": 150, "partition": "shuffle"},
    "a party drawn a round": {"cohort": {"name": "weighted", "size": 1}},
    "listed cohorts": {"cohort": {"name": "fixed", "rounds": [[0], [1, 2]]}},
    "columns split": {"partition": "features", "parties": 2},
    "regression": {
        "data": {"name": "synthetic", "samples": 150, "shape": [5], "task": "regression", "test_samples": 40},
        "partition": "shuffle",
        "model": "logistic",
        "training": {"optimizer": {"lr": 0.01}},
    },
    "tokens": {
        "data": {
            "name": "synthetic",
            "samples": 60,
            "shape": [6],
            "classes": 8,
            "task": "tokens",
            "test_samples": 20,
        },
        "partition": "shuffle",
        "model": {"name": "transformer", "width": 8, "depth": 1, "heads": 2},
        "training": {"executor": "vmap"},
    },
    "half precision": {"training": {"dtype": "bfloat16", "executor": "loop"}},
    "a schedule": {"training": {"schedule": {"name": "StepLR", "step_size": 1}}},
    "another optimiser": {"training": {"optimizer": {"name": "Adafactor", "lr": 0.01}, "executor": "loop"}},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES)
def test_unusual_runs_are_runs(tmp_path: Path, changes: dict[str, Any]) -> None:
    session = run(solo(), tmp_path / "run", rounds=2, **changes)
    assert params_of(session).isfinite().all()
    records = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [r["left_out"] for r in records] == [[], []]
    assert all(np.isfinite(r["loss"]) for r in records)


def test_more_parties_than_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="151"):
        run(solo(), tmp_path / "run", parties=151, partition="shuffle")


def test_executor_vmap_refuses_an_optimiser_that_is_not_elementwise(tmp_path: Path) -> None:
    training = {"executor": "vmap", "optimizer": {"name": "Adafactor", "lr": 0.01}}
    with pytest.raises(HpcFlError, match="Adafactor"):
        run(solo(), tmp_path / "run", training=training)


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    run(solo(), tmp_path / "run", rounds=1)
    with pytest.raises(ConfigError, match="--resume"):
        run(solo(), tmp_path / "run", rounds=1)


def test_going_on_with_other_data_is_refused(tmp_path: Path) -> None:
    run(solo(), tmp_path / "run", rounds=1)
    with pytest.raises(ConfigError, match=r"parties: got 5, .* has 6"):
        run(solo(), tmp_path / "run", parties=5, resume=True)


def test_going_on_without_the_objects_that_it_was_given_is_refused(tmp_path: Path) -> None:
    """Their names in the configuration are others': it would train another model on other data."""
    mine = config(parties=3, partition="shuffle", rounds=1)
    hpc_fl.train(mine, dataset=own_data, run_dir=tmp_path / "data")
    given: dict[str, Any] = {"model": own_model, "dataset": own_data}
    hpc_fl.train(mine, **given, run_dir=tmp_path / "both")
    hpc_fl.train(mine, run_dir=tmp_path / "none")
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("data", {}, "was given its own data from Python, now neither"),
        (
            "both",
            {"dataset": own_data},
            "was given its own model and its own data from Python, now its own data",
        ),
        ("none", given, "was given neither model nor data from Python, now its own model"),
    ]
    for had, now, words in cases:
        with pytest.raises(ConfigError, match=words):
            hpc_fl.train(mine, **now, run_dir=tmp_path / had, resume=True)
    more = mine.model_copy(update={"rounds": 2})
    again = hpc_fl.train(more, **given, run_dir=tmp_path / "both", resume=True)
    assert again.outcome.rounds_done == 2


def test_going_on_with_nothing_begins(tmp_path: Path) -> None:
    session = run(solo(), tmp_path / "new", rounds=1, resume=True)
    assert session.federation.round == 1


def test_a_finished_run_goes_on_when_asked_for_more_rounds(tmp_path: Path) -> None:
    run(solo(), tmp_path / "run", rounds=2)
    more = run(solo(), tmp_path / "run", rounds=4, resume=True)
    whole = run(solo(), tmp_path / "whole", rounds=4)
    assert torch.equal(params_of(more), params_of(whole))


def test_an_altered_checkpoint_is_refused_and_the_one_before_used(tmp_path: Path) -> None:
    whole = run(solo(), tmp_path / "whole", checkpoint={"every": 1})
    run(solo(), tmp_path / "cut", checkpoint={"every": 1}, rounds=3)
    newest = tmp_path / "cut" / "checkpoints" / "round-00000003" / "server.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    resumed = run(solo(), tmp_path / "cut", checkpoint={"every": 1}, resume=True)
    assert torch.equal(params_of(resumed), params_of(whole))
    notices = [e["text"] for e in read_jsonl(tmp_path / "cut" / "events.jsonl") if e["event"] == "Notice"]
    assert any("round-00000003 is refused" in text for text in notices)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_round_and_leaves_a_checkpoint(tmp_path: Path, signum: signal.Signals) -> None:
    session = Session(config(rounds=50), solo(), run_dir=tmp_path / "run")
    step = session.federation.step

    def interrupted(*, stop: bool = False) -> Any:
        if session.federation.round == 2:
            os.kill(os.getpid(), signum)
        return step(stop=stop)

    session.federation.step = interrupted  # type: ignore[method-assign]
    outcome = session.run().outcome
    assert outcome.stopped == signum.name
    # The signal came during the third round: it is noticed at the exchange of the fourth.
    assert outcome.rounds_done == 4
    whole = run(solo(), tmp_path / "whole", rounds=6)
    resumed = run(solo(), tmp_path / "run", rounds=6, resume=True)
    assert torch.equal(params_of(resumed), params_of(whole))


NO_REMAINDER: dict[str, Any] = {"training": {"batch_size": 5, "executor": "loop"}}
"""BatchNorm cannot train on a batch of one sample."""


def test_own_code_is_found_by_name(tmp_path: Path) -> None:
    session = run(
        solo(), tmp_path / "run", model="laws.batchnorm:make", partition="shuffle", rounds=1, **NO_REMAINDER
    )
    assert isinstance(session.federation.model.module[1], nn.BatchNorm1d)  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere:f", "No module named"), ("laws.batchnorm:f", "no attribute"), ("os:sep", "function")],
)
def test_own_code_that_is_not_there_is_named(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(solo(), tmp_path / "run", model=name)


def test_an_automatic_codec_is_settled_once_and_kept(tmp_path: Path) -> None:
    def train(transport: Transport) -> tuple[dict[str, Any], torch.Tensor]:
        folder = tmp_path / "run"
        for rounds, resume in ((1, False), (2, True)):
            mine = config(rounds=rounds, exchange={"codec": "auto"})
            session = Session(mine, transport, run_dir=folder, resume=resume)
            session.run()
        return yaml.safe_load((folder / "config.yaml").read_text())["exchange"]["codec"], params_of(session)

    (kept, ours), (_, theirs) = run_ranks(2, train)
    assert kept["name"] in ("identity", "bf16", "onebit", "topk", "lowrank")
    assert torch.equal(ours, theirs)
