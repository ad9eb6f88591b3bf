"""Run on the hosts of a virtual cluster: gossip of every kind, its bytes by the ledger and by the interface;
then the asynchronous kinds, and a run. Prints a line of JSON for each case from rank 0. Argument: a folder
for the run.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from laws import pairwise_laws, window_laws
from laws.gossip_training_laws import gossip, models_of

from hpc_fl.bench.collective_ranks import wire_bytes
from hpc_fl.collectives import ChocoMixer, DenseMixer, DirectMixer, Mixer, SqueezeMixer
from hpc_fl.comm import runtime
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, OneBit, TopK
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import Schedule, Topology, one_peer_exponential, ring

N = 4_000_000
CALLS = 4
Make = Callable[[Transport, Ledger, tuple[tuple[int, ...], ...]], Mixer]
CASES: dict[str, tuple[Callable[[int], Topology], Make]] = {
    "one peer": (one_peer_exponential, DenseMixer),
    "ring": (ring, DenseMixer),
    "half": (ring, lambda t, ledger, p: DirectMixer(t, ledger, p, BF16())),
    "choco, top-k": (ring, lambda t, ledger, p: ChocoMixer(t, ledger, p, TopK(ratio=0.05), gamma=0.2)),
    "choco, sign": (ring, lambda t, ledger, p: ChocoMixer(t, ledger, p, OneBit(), gamma=0.2)),
    "squeeze": (
        one_peer_exponential,
        lambda t, ledger, p: SqueezeMixer(t, ledger, p, TopK(ratio=0.2), eta=0.1),
    ),
}
LAWS = (
    window_laws.law_no_mass_is_lost,
    window_laws.law_push_sum_finds_the_mean,
    pairwise_laws.law_all_ask_all_at_once,
    pairwise_laws.law_training_goes_on_meanwhile,
)


def mixed(transport: Transport, name: str) -> dict[str, object]:
    """A case: what went over this host's interface, and what the ledger says."""
    make_topology, make = CASES[name]
    schedule, ledger = Schedule(make_topology(transport.size)), Ledger()
    mixer = make(transport, ledger, tuple((rank,) for rank in range(transport.size)))
    rows = torch.randn(1, N, generator=torch.Generator().manual_seed(transport.rank))
    transport.barrier()
    before = wire_bytes()
    for round_ in range(CALLS):
        mixer.mix(rows, schedule.matrix(round_), round_)
    transport.barrier()  # what was sent has been received, so it has left
    mine = np.array([float(ledger.total), float(wire_bytes() - before)])
    everyone = np.zeros((transport.size, 2))
    transport.allgather(mine, everyone)
    mixer.close()
    off = float(np.abs(everyone[:, 1] / everyone[:, 0] - 1).max())
    return {"case": name, "bytes": mine[0], "wire": mine[1], "off": off}


def main() -> None:
    transport = runtime.start()
    with runtime.guard(transport):
        for name in CASES:
            found = mixed(transport, name)
            if transport.rank == 0:
                print(json.dumps(found), flush=True)
        for law in LAWS:
            law(transport)
        exchange = {"topology": {"name": "hierarchical", "between": "ring"}}
        session = gossip(transport, Path(sys.argv[1]) / "run", exchange=exchange, rounds=2)
        finite = all(bool(model.isfinite().all()) for model in models_of(session).values())
        if transport.rank == 0:
            groups = session.schedule.groups if session.schedule is not None else ()
            print(json.dumps({"groups": len(groups), "finite": finite}), flush=True)


if __name__ == "__main__":
    main()
