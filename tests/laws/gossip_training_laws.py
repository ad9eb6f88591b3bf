"""What a run of parties with models of their own must do, for any number of ranks. Every rank calls each law
with its transport; rank 0's folder is used by all.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from laws.training_laws import params_of, run

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.inprocess import solo
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import ConfigError
from hpc_fl.rounds import GossipRounds
from hpc_fl.session import Session
from hpc_fl.strategies import MODEL
from hpc_fl.telemetry import read_jsonl

PLAIN: Final = {"epochs": 2, "batch_size": 8, "executor": "loop", "optimizer": {"name": "SGD", "lr": 0.05}}
WAYS: Final[dict[str, dict[str, Any]]] = {
    "dpsgd": {"exchange": {"topology": "ring"}},
    "overlap": {
        "strategy": {"name": "dpsgd", "overlap": True},
        "exchange": {"topology": "one_peer_exponential"},
    },
    "sgp": {"strategy": "sgp", "exchange": {"topology": "directed_ring"}},
    "d2": {"strategy": "d2", "exchange": {"topology": "ring"}},
    "tracking": {"strategy": "gradient_tracking", "exchange": {"topology": "exponential"}},
    "quasi-global": {"strategy": "quasi_global", "exchange": {"topology": "random_matching"}},
    "choco": {"exchange": {"topology": "exponential", "codec": {"name": "topk", "ratio": 0.2}}},
    "choco tracking": {
        "strategy": "gradient_tracking",
        "exchange": {"topology": "ring", "codec": {"name": "onebit", "block": 64}},
    },
    "squeeze": {
        "exchange": {
            "topology": "one_peer_exponential",
            "codec": {"name": "topk", "ratio": 0.5},
            "gossip": {"method": "squeeze"},
        }
    },
    "direct": {"exchange": {"topology": "ring", "codec": "bf16"}},
    "cohort": {"exchange": {"topology": "ring"}, "cohort": {"name": "uniform", "size": 4}},
}
"""An algorithm, a topology and a way to encode, each with something that the others do not have."""


def gossip(transport: Transport, folder: Path, **changes: Any) -> Session:
    return run(transport, folder, **{"training": PLAIN, **changes})


def models_of(session: Session) -> dict[int, torch.Tensor]:
    """The models of the parties hosted here."""
    rounds = session.federation.rounds
    assert isinstance(rounds, GossipRounds)
    return dict(zip(session.parties.store.party_ids, rounds.rows[MODEL], strict=True))


def law_the_number_of_ranks_changes_rounding_only(transport: Transport, folder: Path) -> None:
    for name, changes in WAYS.items():
        here = gossip(transport, folder / name, **changes)
        everybody = torch.zeros(6, here.federation.model.n)
        if transport.rank == 0:
            alone = gossip(solo(), folder / f"{name}-solo", **changes)
            everybody.copy_(torch.stack([models_of(alone)[party] for party in range(6)]))
        transport.broadcast(everybody)
        for party, model in models_of(here).items():
            torch.testing.assert_close(model, everybody[party], rtol=2e-3, atol=2e-4, msg=f"{name}: {party}")
        torch.testing.assert_close(params_of(here), everybody.mean(0), rtol=2e-3, atol=2e-4)


def law_the_consensus_model_is_the_same_everywhere_and_the_mean(transport: Transport, folder: Path) -> None:
    session = gossip(transport, folder / "run", **WAYS["dpsgd"])
    params = params_of(session)
    assert len(set(allgather_bytes(transport, params.numpy().tobytes()))) == 1
    total = torch.zeros(len(params), dtype=torch.float64)
    for model in models_of(session).values():
        total += model.double()
    transport.allreduce(total)
    torch.testing.assert_close(params.double(), total / 6, rtol=1e-5, atol=1e-6)


def law_over_a_complete_graph_gossip_is_an_allreduce(transport: Transport, folder: Path) -> None:
    """Of parties that count alike."""
    equal: dict[str, Any] = {"strategy": {"name": "fedavg", "weighting": "equal"}, "training": PLAIN}
    agreed = params_of(run(transport, folder / "agreed", **equal))
    for name in ("dpsgd", "sgp"):
        mixed = gossip(transport, folder / name, strategy=name, exchange={"topology": "complete"})
        for model in models_of(mixed).values():
            torch.testing.assert_close(model, agreed, rtol=1e-4, atol=1e-5)


def law_a_hierarchy_is_an_allreduce_inside_and_gossip_between(transport: Transport, folder: Path) -> None:
    """On one machine all parties are one group; with a group a rank, those of a rank hold one model."""
    whole = {"exchange": {"topology": "hierarchical"}}
    complete = gossip(transport, folder / "complete", exchange={"topology": "complete"})
    machine = gossip(transport, folder / "machine", **whole)
    for party, model in models_of(machine).items():
        torch.testing.assert_close(model, models_of(complete)[party], rtol=1e-4, atol=1e-5)
    ranks = {"topology": {"name": "hierarchical", "group": "rank", "between": "complete"}}
    grouped = gossip(transport, folder / "ranks", exchange=ranks)
    gossip(transport, folder / "more", exchange=ranks, rounds=2)
    again = gossip(transport, folder / "more", exchange=ranks, resume=True)
    for party, model in models_of(grouped).items():
        assert torch.equal(model, models_of(again)[party])
        if (
            len(set(map(len, grouped.parties.placement))) == 1
        ):  # else groups weigh by their sizes, and need time
            torch.testing.assert_close(model, models_of(complete)[party], rtol=1e-4, atol=1e-5)


def law_pairs_average_in_no_order(transport: Transport, folder: Path) -> None:
    size = transport.size
    changes = {"strategy": "adpsgd", "parties": size, "partition": "shuffle", "evaluate": {"every": 1}}
    session = gossip(transport, folder / "run", exchange={"topology": "complete"}, **changes, rounds=6)
    assert len(set(allgather_bytes(transport, params_of(session).numpy().tobytes()))) == 1
    alone = gossip(transport, folder / "alone", exchange={"topology": "complete"}, **changes, rounds=1)
    gossip(transport, folder / "run", exchange={"topology": "complete"}, **changes, rounds=7, resume=True)
    if transport.rank == 0:
        first, last = (read_jsonl(folder / name / "metrics.jsonl")[-1] for name in ("alone", "run"))
        assert last["round"] == 7
        assert last["loss"] < first["loss"]
    if size > 1:
        with pytest.raises(ConfigError, match="which needs one a rank"):
            gossip(
                transport, folder / "bad", exchange={"topology": "ring"}, **{**changes, "parties": size + 1}
            )
    assert alone.federation.round == 1


def law_both_executors_train_own_models(transport: Transport, folder: Path) -> None:
    for name in ("dpsgd", "tracking", "quasi-global"):
        loop, vmap = (
            models_of(
                gossip(
                    transport,
                    folder / f"{name}-{executor}",
                    **WAYS[name],
                    training={**PLAIN, "executor": executor},
                )
            )
            for executor in ("loop", "vmap")
        )
        for party, model in loop.items():
            torch.testing.assert_close(vmap[party], model, rtol=1e-3, atol=1e-4)


def law_a_resumed_run_is_the_same_run(transport: Transport, folder: Path) -> None:
    """With the same bits, on this number of ranks; on one rank up to rounding."""
    for name in ("sgp", "d2", "tracking", "quasi-global", "choco", "squeeze"):
        whole = gossip(transport, folder / f"{name}-whole", **WAYS[name])
        gossip(transport, folder / f"{name}-cut", **WAYS[name], rounds=2)
        if transport.rank == 0:
            shutil.copytree(folder / f"{name}-cut", folder / f"{name}-moved")
            moved = gossip(solo(), folder / f"{name}-moved", **WAYS[name], resume=True)
            torch.testing.assert_close(params_of(moved), params_of(whole), rtol=2e-3, atol=2e-4)
        transport.barrier()
        resumed = gossip(transport, folder / f"{name}-cut", **WAYS[name], resume=True)
        for party, model in models_of(whole).items():
            assert torch.equal(models_of(resumed)[party], model), name


def law_absent_parties_keep_their_models(transport: Transport, folder: Path) -> None:
    changes = {"exchange": {"topology": "ring"}, "cohort": {"name": "fixed", "rounds": [[0, 1, 2, 4]]}}
    before = gossip(transport, folder / "none", **changes, rounds=1)
    after = gossip(transport, folder / "three", **changes, rounds=3)
    for party, model in models_of(after).items():
        assert torch.equal(model, models_of(before)[party]) == (party in (3, 5))


def law_a_run_goes_on_without_parties_that_are_gone(transport: Transport, folder: Path) -> None:
    for name in ("dpsgd", "sgp", "d2", "tracking", "choco", "squeeze"):
        session = gossip(transport, folder / name, **WAYS[name], rounds=2)
        rounds = session.federation.rounds
        assert isinstance(rounds, GossipRounds)
        before = {party: model.clone() for party, model in models_of(session).items()}
        rounds.remove([1, 4])
        for round_ in range(2, 5):
            cohort, mixed = rounds.step(round_, stop=False)
            assert cohort == (0, 2, 3, 5)
            assert mixed.parties == 4
        for party, model in models_of(session).items():
            assert torch.equal(model, before[party]) == (party in (1, 4)), name
            assert model.isfinite().all()
        rounds.restore(rounds.state())
        assert rounds.step(5, stop=False)[0] == (0, 2, 3, 5)
        session.close()


def law_a_record_a_round(transport: Transport, folder: Path) -> None:
    session = gossip(transport, folder / "run", **WAYS["dpsgd"], evaluate={"every": 2}, rounds=4)
    if transport.rank:
        return
    records = read_jsonl(folder / "run" / "metrics.jsonl")
    assert [("consensus_distance" in r, "model_accuracy" in r) for r in records] == [
        (evaluated,) * 2 for evaluated in (False, True, False, True)
    ]
    n, placement = session.federation.model.n, session.parties.placement
    where = {party: rank for rank, ids in enumerate(placement) for party in ids}
    for record in records:
        assert record["weight"] == 6
        if transport.size == 1:
            continue
        for rank, sent in enumerate(record["bytes_sent"]["gossip"]):
            pairs = {(party, where[(party + step) % 6]) for party in placement[rank] for step in (-1, 1)}
            assert sent == 4 * n * sum(other != rank for _, other in pairs)
    drawn = json.loads((folder / "run" / "topology.json").read_text())
    assert (drawn["name"], drawn["size"], drawn["ranks"]) == ("ring", 6, [where[p] for p in range(6)])


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
