"""What a whole run must do, for any number of ranks. Every rank calls each law with its transport."""

import shutil
from pathlib import Path
from typing import Any

import torch

from hpc_fl.collectives import dense_bytes
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.inprocess import solo
from hpc_fl.comm.transport import Transport
from hpc_fl.config import Config, make_config
from hpc_fl.session import Session
from hpc_fl.telemetry import read_jsonl

QUIET = {"progress": False, "tensorboard": False, "report": False}


def config(**changes: Any) -> Config:
    """A run of a second: 6 uneven parties, a small MLP."""
    return make_config(
        {
            "name": "law",
            "rounds": 4,
            "parties": 6,
            "data": {"name": "synthetic", "samples": 150, "shape": [5], "classes": 3, "test_samples": 40},
            "partition": {"name": "dirichlet", "alpha": 0.5},
            "model": {"name": "mlp", "hidden": [7]},
            "training": {"epochs": 2, "batch_size": 8, "executor": "loop"},
            "telemetry": QUIET,
            **changes,
        }
    )


def params_of(session: Session) -> torch.Tensor:
    return session.federation.params


def run(transport: Transport, folder: Path, *, resume: bool = False, **changes: Any) -> Session:
    session = Session(config(**changes), transport, run_dir=folder, resume=resume)
    session.run()
    return session


def law_ranks_agree_bit_for_bit(transport: Transport, folder: Path) -> None:
    session = run(transport, folder / "run")
    bits = params_of(session).numpy().tobytes()
    assert len(set(allgather_bytes(transport, bits))) == 1


def law_one_seed_one_result(transport: Transport, folder: Path) -> None:
    for executor in ("loop", "vmap", "auto"):
        training = {"epochs": 1, "batch_size": 8, "executor": executor}
        first = params_of(run(transport, folder / f"{executor}-1", training=training))
        again = params_of(run(transport, folder / f"{executor}-2", training=training))
        other = params_of(run(transport, folder / f"{executor}-3", training=training, seed=1))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-3)


def law_the_number_of_ranks_changes_rounding_only(transport: Transport, folder: Path) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"strategy": "fedadam"},
        {"strategy": "fedsgd"},
        {"cohort": {"name": "uniform", "size": 3}},
    ]
    for name, changes in zip("abcd", variants, strict=True):
        here = params_of(run(transport, folder / name, **changes))
        alone = params_of(run(solo(), folder / f"{name}-solo-{transport.rank}", **changes))
        torch.testing.assert_close(here, alone, rtol=1e-4, atol=1e-5)


def law_a_resumed_run_is_the_same_run(transport: Transport, folder: Path) -> None:
    stateful: dict[str, Any] = {
        "strategy": "fedavgm",
        "model": {"name": "laws.batchnorm:make"},
        "training": {"batch_size": 10, "epochs": 1, "buffers": {"*.running_mean": "local"}},
        "checkpoint": {"every": 1},
        "parties": 5,
        "partition": "shuffle",
    }
    whole = run(transport, folder / "whole", **stateful)
    run(transport, folder / "cut", **stateful, rounds=2)
    resumed = run(transport, folder / "cut", resume=True, **stateful)
    assert torch.equal(params_of(resumed), params_of(whole))
    if transport.rank == 0:
        lines = [record["round"] for record in read_jsonl(folder / "cut" / "metrics.jsonl")]
        assert lines == [1, 2, 3, 4]


def law_a_run_may_be_resumed_on_another_number_of_ranks(transport: Transport, folder: Path) -> None:
    whole = run(transport, folder / "whole", strategy="fedavgm")
    first = run(transport, folder / "cut", strategy="fedavgm", rounds=2)
    if transport.rank == 0:
        alone = run(solo(), folder / "cut", resume=True, strategy="fedavgm")
        torch.testing.assert_close(params_of(alone), params_of(whole), rtol=1e-4, atol=1e-5)
    transport.barrier()
    assert first.federation.round == 2


def law_more_ranks_than_parties(transport: Transport, folder: Path) -> None:
    session = run(transport, folder / "run", parties=1, partition="shuffle")
    alone = run(solo(), folder / f"solo-{transport.rank}", parties=1, partition="shuffle")
    torch.testing.assert_close(params_of(session), params_of(alone), rtol=1e-5, atol=1e-6)


CODECS: dict[str, Any] = {
    "identity": {"codec": "identity", "collective": "allgather"},
    "half": {"codec": "bf16", "collective": "allgather"},
    "sparse": {"codec": {"name": "topk", "ratio": 0.1, "segments": True}, "collective": "allgather"},
    "momentum": {"codec": "topk", "error_feedback": {"momentum": 0.5, "masking": True}},
    "signs": {"codec": {"name": "onebit", "segments": True}},
    "quantised": {"codec": "qsgd", "collective": "allgather"},
    "factors": {"codec": {"name": "lowrank", "rank": 1}, "collective": "allgather"},
    "chained": {
        "codec": {"name": "chain", "sparsifier": {"name": "topk", "ratio": 0.2}, "values": "fp16"},
        "collective": "allgather",
    },
}
"""One codec of each family, as in the section ``exchange``: each party's own payloads."""

REDUCED: dict[str, Any] = {
    "halves": {"codec": "bf16"},
    "sharded": {"codec": {"name": "onebit", "block": 64}},
    "quantised": {"codec": "qsgd", "error_feedback": True},
    "chained": {"codec": {"name": "chain", "sparsifier": {"name": "topk", "ratio": 0.2}, "values": "fp16"}},
    "sparse": {"codec": {"name": "topk", "ratio": 0.1}},
    "vote": {"codec": {"name": "signsgd", "scale": 0.01}},
    "linear": {"codec": {"name": "randomk", "ratio": 0.2}},
    "lowrank": {"codec": {"name": "lowrank", "rank": 1}},
    "warmup": {"codec": "onebit", "warmup": 2},
}
"""One codec for each way to reduce the sums of ranks."""


def law_with_every_codec_ranks_agree_and_their_number_changes_nothing(
    transport: Transport, folder: Path
) -> None:
    for name, exchange in CODECS.items():
        here = params_of(run(transport, folder / name, exchange=exchange, rounds=2))
        assert len(set(allgather_bytes(transport, here.numpy().tobytes()))) == 1, name
        if transport.rank == 0:
            alone = params_of(run(solo(), folder / f"{name}-solo", exchange=exchange, rounds=2))
            assert torch.equal(here, alone), name
        transport.barrier()


def law_what_error_feedback_keeps_is_resumed(transport: Transport, folder: Path) -> None:
    """With the same bits, on this number of ranks and on another; half of the parties a round."""
    for name in ("momentum", "signs", "factors"):
        changes: dict[str, Any] = {"exchange": CODECS[name], "cohort": {"name": "uniform", "size": 3}}
        whole = params_of(run(transport, folder / f"{name}-whole", **changes))
        run(transport, folder / f"{name}-cut", rounds=2, **changes)
        if transport.rank == 0:
            shutil.copytree(folder / f"{name}-cut", folder / f"{name}-moved")
            moved = params_of(run(solo(), folder / f"{name}-moved", resume=True, **changes))
            assert torch.equal(moved, whole), name
        resumed = params_of(run(transport, folder / f"{name}-cut", resume=True, **changes))
        assert torch.equal(resumed, whole), name


def law_ranks_agree_with_every_reduction_and_resume_it(transport: Transport, folder: Path) -> None:
    """With the same bits on this number of ranks; on another one what was kept back is not lost."""
    for name, exchange in REDUCED.items():
        whole = params_of(run(transport, folder / f"{name}-whole", exchange=exchange, rounds=4))
        assert whole.isfinite().all(), name
        assert len(set(allgather_bytes(transport, whole.numpy().tobytes()))) == 1, name
        run(transport, folder / f"{name}-cut", exchange=exchange, rounds=2)
        if transport.rank == 0:
            shutil.copytree(folder / f"{name}-cut", folder / f"{name}-moved")
            moved = run(solo(), folder / f"{name}-moved", exchange=exchange, rounds=4, resume=True)
            assert params_of(moved).isfinite().all(), name
        resumed = params_of(run(transport, folder / f"{name}-cut", exchange=exchange, rounds=4, resume=True))
        assert torch.equal(resumed, whole), name


def law_a_record_a_round(transport: Transport, folder: Path) -> None:
    exchange = {"dense": {"algorithm": "mpi"}}  # charged by the ring's formula, rounded up
    run(transport, folder / "run", evaluate={"every": 2}, rounds=5, exchange=exchange)
    if transport.rank:
        return
    records = read_jsonl(folder / "run" / "metrics.jsonl")
    assert [r["round"] for r in records] == [1, 2, 3, 4, 5]
    assert [("accuracy" in r, "loss" in r, "party_accuracy" in r) for r in records] == [
        (evaluated,) * 3 for evaluated in (False, True, False, True, True)
    ]
    for record in records:
        assert record["world_size"] == transport.size
        assert record["cohort"] == list(range(6))
        assert record["weight"] == 150
        assert set(record["bytes_sent"]) == {"allreduce", "control"}
        assert len(record["bytes_sent"]["allreduce"]) == transport.size
        assert sum(record["bytes_sent"]["allreduce"]) == record["bytes_dense"]
        assert record["payload_ratio"] == 1.0
        assert set(record["seconds"]) == {
            "train",
            "encode",
            "communicate",
            "decode",
            "evaluate",
            "checkpoint",
        }


def law_a_record_says_what_compression_saved(transport: Transport, folder: Path) -> None:
    exchange = {"codec": "onebit", "collective": "allgather"}
    session = run(transport, folder / "run", exchange=exchange, rounds=2)
    if transport.rank:
        return
    n, size = session.federation.model.n, transport.size
    for record in read_jsonl(folder / "run" / "metrics.jsonl"):
        payload = -(-n // 8) + 4
        assert set(record["bytes_sent"]) == {"allgather", "headers", "control"}
        assert record["payload_bytes"] == 6 * payload
        assert record["payload_ratio"] == payload / (4 * n)
        assert sum(record["bytes_sent"]["allgather"]) == 6 * payload * (size - 1)
        assert record["bytes_dense"] == size * dense_bytes(n, size)


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
