"""What an exchange must do, for any number of ranks. Every rank calls each law with its transport."""

from collections.abc import Sequence

import numpy as np
import torch

from hpc_fl.collectives import DenseAllreduce, dense_bytes
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity
from hpc_fl.exchange import Exchange, Mixed
from hpc_fl.telemetry import Ledger

N = 37
PARTIES = 7
TOTAL = sum(range(1, PARTIES + 1))


def party(number: int, buffer: int) -> torch.Tensor:
    """One party's buffer (N,), the same wherever it is hosted."""
    return torch.randn(N, generator=torch.Generator().manual_seed(100 * buffer + number))


def hosted(transport: Transport) -> list[int]:
    return list(range(transport.rank, PARTIES, transport.size))


def make(transport: Transport, ledger: Ledger, names: Sequence[str] = ("update",)) -> Exchange:
    return Exchange(
        transport, Identity(), DenseAllreduce(transport, ledger), n=N, names=names, device=torch.device("cpu")
    )


def add(
    exchange: Exchange, parties: Sequence[int], names: Sequence[str] = ("update",), **spoil: float
) -> None:
    """Adds parties, weighing one more than their number; ``p2=x`` puts x into party 2's first buffer."""
    if not parties:
        return
    buffers = {name: torch.stack([party(p, b) for p in parties]) for b, name in enumerate(names)}
    for key, value in spoil.items():
        number = int(key.removeprefix("p"))
        if number in parties:
            buffers[names[0]][parties.index(number), 5] = value
    weights = np.array([p + 1 for p in parties], np.float32)
    exchange.add(parties, buffers, weights, torch.tensor([float(p) for p in parties]))


def mean(parties: Sequence[int], buffer: int = 0) -> torch.Tensor:
    rows = torch.stack([party(p, buffer).double() * (p + 1) for p in parties])
    return (rows.sum(0) / sum(p + 1 for p in parties)).float()


def same_everywhere(transport: Transport, mixed: Mixed) -> None:
    bits = b"".join(b.numpy().tobytes() for b in mixed.buffers.values())
    assert len(set(allgather_bytes(transport, bits))) == 1, "all ranks hold identical bits"


def law_the_result_is_the_weighted_mean(transport: Transport) -> None:
    exchange = make(transport, Ledger(), ("update", "control"))
    for _ in range(2):  # nothing of the first round is left in the second
        exchange.open(TOTAL)
        add(exchange, hosted(transport), ("update", "control"))
        mixed = exchange.mix()
        everybody = range(PARTIES)
        torch.testing.assert_close(mixed.buffers["update"], mean(everybody), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mixed.buffers["control"], mean(everybody, 1), rtol=1e-5, atol=1e-6)
        assert mixed.weight == sum(p + 1 for p in everybody)
        assert abs(mixed.loss - sum(p * (p + 1) for p in everybody) / mixed.weight) < 1e-5
        assert (mixed.parties, mixed.left_out, mixed.stop) == (PARTIES, (), False)
        same_everywhere(transport, mixed)


def law_one_by_one_or_together_is_the_same_mean(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    exchange.open(TOTAL)
    for number in hosted(transport):
        add(exchange, [number])
    torch.testing.assert_close(exchange.mix().buffers["update"], mean(range(PARTIES)), rtol=1e-5, atol=1e-6)


def law_a_spoilt_party_is_left_out_and_named(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    for value in (float("nan"), float("inf"), -float("inf")):
        exchange.open(TOTAL)
        add(exchange, hosted(transport), p2=value, p5=value)
        mixed = exchange.mix()
        assert mixed.left_out == (2, 5)
        assert mixed.parties == PARTIES - 2
        torch.testing.assert_close(mixed.buffers["update"], mean([0, 1, 3, 4, 6]), rtol=1e-5, atol=1e-6)
        same_everywhere(transport, mixed)


def law_large_but_finite_updates_take_part(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    exchange.open(100 * transport.size)
    rows = torch.full((1, N), 3e38)
    exchange.add([0], {"update": rows}, np.full(1, 100, np.float32), torch.zeros(1))
    mixed = exchange.mix()
    assert mixed.left_out == ()
    torch.testing.assert_close(mixed.buffers["update"], rows[0], rtol=1e-6, atol=0.0)


def law_nobody_contributes_nothing_changes(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    exchange.open(TOTAL)
    mixed = exchange.mix()
    assert mixed.parties == 0
    assert np.isnan(mixed.loss)
    assert (mixed.buffers["update"] == 0).all()


def law_one_rank_stops_all(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    exchange.open(TOTAL)
    assert exchange.mix(stop=transport.rank == transport.size - 1).stop


def law_started_and_waited_is_the_same(transport: Transport) -> None:
    exchange = make(transport, Ledger())
    exchange.open(TOTAL)
    add(exchange, hosted(transport))
    pending = exchange.start()
    torch.testing.assert_close(pending.wait().buffers["update"], mean(range(PARTIES)), rtol=1e-5, atol=1e-6)


def law_the_ledger_has_the_rings_bytes(transport: Transport) -> None:
    ledger = Ledger()
    exchange = make(transport, ledger)
    exchange.open(TOTAL)
    add(exchange, hosted(transport))
    exchange.mix()
    tail, size = 5, transport.size
    assert ledger.take() == {"allreduce": dense_bytes(N + tail, size)}
    assert dense_bytes(N, size) == -(-2 * (size - 1) * 4 * N // size)


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
