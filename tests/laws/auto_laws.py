"""What the choice between dense allreduces must do. Every rank calls each law with its transport; rank 0's
cache folder is used, and must be empty.
"""

import json

import numpy as np
import pytest
import torch
from laws.dense_laws import agree, inputs, summed

from hpc_fl.collectives import AutoDense
from hpc_fl.collectives.choice import cache_path
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.telemetry.ledger import Ledger


def law_ranks_choose_alike(t: Transport) -> None:
    """One algorithm at each size, which is the fastest or the usual one, and adds rightly."""
    auto = AutoDense(t, Ledger())
    for n in (0, 1000, 100_003):
        choice = auto.choice(n)
        assert len(set(allgather_bytes(t, str(choice).encode()))) == 1
        assert choice.name in ("dense", min(choice.seconds, key=choice.seconds.__getitem__))
        x = inputs(t.size, n)
        result = summed(auto, x[t.rank])
        total = np.stack(x).astype(np.float64)
        assert (np.abs(result - total.sum(0)) <= t.size * 2.0**-23 * np.abs(total).sum(0)).all()
        assert agree(t, result)
    auto.close()


def law_measured_once(t: Transport) -> None:
    """The traffic of measuring is charged as such; another one in the same world finds the choice."""
    ledgers = Ledger(), Ledger()
    for ledger in ledgers:
        auto = AutoDense(t, ledger)
        auto.allreduce(torch.ones(10))
        auto.allreduce(torch.ones(10))
        auto.close()
    first, second = (ledger.take() for ledger in ledgers)
    assert first.pop("measuring", 0) > 0 or t.size == 1
    assert first == second
    assert set(second) == {"allreduce"}
    if t.rank == 0:
        (kept,) = json.loads(cache_path().read_text()).values()
        assert [choice["name"] for choice in kept] == [auto.choice(10).name]


def law_damaged_choices_are_measured_anew(t: Transport) -> None:
    """A file that cannot be read, or a folder that cannot be written, is no reason to stop."""
    for text in ("{", "[]", "3"):
        if t.rank == 0:
            cache_path().parent.mkdir(parents=True, exist_ok=True)
            cache_path().write_text(text)
        t.barrier()
        auto = AutoDense(t, Ledger())
        assert summed(auto, np.ones(3, np.float32)).tolist() == [t.size] * 3
        auto.close()
    if t.rank == 0:
        cache_path().unlink()
        cache_path().mkdir()
    auto = AutoDense(t, Ledger())
    assert summed(auto, np.ones(3, np.float32)).tolist() == [t.size] * 3
    auto.close()


def law_started_ones_are_like_the_others(t: Transport) -> None:
    """Started at once, of sizes with unlike algorithms: the bits of blocking ones."""
    auto = AutoDense(t, Ledger())
    given = [inputs(t.size, n)[t.rank] for n in (20_000, 10, 100_003, 0)]
    alone = [summed(auto, x) for x in given]
    buffers = [torch.from_numpy(x.copy()) for x in given]
    handles = [auto.start(buffer) for buffer in buffers[:-1]]
    auto.allreduce(buffers[-1])
    for handle in handles:
        handle.wait()
    assert [b.numpy().tobytes() for b in buffers] == [x.tobytes() for x in alone]
    auto.close()


def law_other_numbers_go_the_usual_way(t: Transport) -> None:
    """What the algorithms written in Python refuse is MPI's."""
    auto = AutoDense(t, Ledger())
    for n in (5, 100_003):
        for dtype in (torch.float64, torch.int32):
            blocking, started = torch.ones(n, dtype=dtype), torch.ones(n, dtype=dtype)
            auto.allreduce(blocking)
            auto.start(started).wait()
            assert (blocking == t.size).all()
            assert (started == t.size).all()
    auto.close()


LAWS = [
    pytest.param(law, id=name.removeprefix("law_"))
    for name, law in list(globals().items())
    if name.startswith("law_")
]
"""All laws as pytest parameters."""
