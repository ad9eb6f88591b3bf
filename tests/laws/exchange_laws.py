"""What an exchange must do, for any number of ranks. Every rank calls each law with its transport, and with
what makes the exchange: dense, or of payloads.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch

from hpc_fl.collectives import Allgather, DenseAllreduce, Summed, dense_bytes
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Codec, Identity, Payload
from hpc_fl.exchange import DenseExchange, Encoder, Exchange, Mixed, PayloadExchange, Plain, ReducedExchange
from hpc_fl.telemetry import Ledger

Make = Callable[[Transport, Ledger, Sequence[str]], Exchange]

N = 37
PARTIES = 7
TOTAL = sum(range(1, PARTIES + 1))


def party(number: int, buffer: int) -> torch.Tensor:
    """One party's buffer (N,), the same wherever it is hosted."""
    return torch.randn(N, generator=torch.Generator().manual_seed(100 * buffer + number))


def hosted(transport: Transport) -> list[int]:
    return list(range(transport.rank, PARTIES, transport.size))


def dense(transport: Transport, ledger: Ledger, names: Sequence[str]) -> Exchange:
    return DenseExchange(
        transport, DenseAllreduce(transport, ledger), n=N, names=names, device=torch.device("cpu")
    )


def payloads(
    transport: Transport,
    ledger: Ledger,
    names: Sequence[str],
    codec: Codec | None = None,
    encoder: Callable[[Codec], Encoder] = Plain,
    n: int = N,
) -> Exchange:
    codec = codec or Identity()
    encoders = {name: encoder(codec) for name in names}
    allgather = Allgather(transport, ledger)
    return PayloadExchange(transport, codec, encoders, allgather, n=n, device=torch.device("cpu"))


def reduced(transport: Transport, ledger: Ledger, names: Sequence[str]) -> Exchange:
    # By MPI: what a measurement would take sends other bytes, and sends for the measurement.
    reductions = {
        name: Summed(transport, ledger, Identity(), feedback=False, mean=False, dense=DenseAllreduce)
        for name in names
    }
    return ReducedExchange(
        transport, reductions, ledger, n=N, hosted=hosted(transport), device=torch.device("cpu")
    )


MAKERS: Final[dict[str, Make]] = {"dense": dense, "payloads": payloads, "reduced": reduced}


def headers(parties: int) -> int:
    """Bytes of a rank's message besides the payloads' own, for one buffer as float32: its length, its head,
    and for each party a row of the table and the payload's header and padding.
    """
    payload = len(Payload(0, 0, (np.empty(0, np.float32),)).tobytes())
    padding = -4 * N % 8
    return 8 + 32 + parties * (16 + 8 + payload + padding)


def sent(make: Make, parties: int, size: int) -> dict[str, int]:
    """What a rank with so many parties sends of one buffer, by the formulas of DESIGN.md."""
    if make is dense:
        tail = 5
        return {"allreduce": -(-2 * (size - 1) * 4 * (N + tail) // size)}
    if make is reduced:
        agreed, told = 16 + 1, 5 * 8
        counted = {"headers": (size - 1) * (agreed + told)}
        return counted if size == 1 else counted | {"allreduce": dense_bytes(N, size)}
    return {"allgather": (size - 1) * parties * 4 * N, "headers": (size - 1) * headers(parties)}


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


def mix(exchange: Exchange, *, stop: bool = False) -> Mixed:
    exchange.travel(stop=stop)
    return exchange.result()


def law_the_result_is_the_weighted_mean(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update", "control"))
    for round_ in range(2):  # nothing of the first round is left in the second
        exchange.open(round_, TOTAL)
        add(exchange, hosted(transport), ("update", "control"))
        mixed = mix(exchange)
        everybody = range(PARTIES)
        torch.testing.assert_close(mixed.buffers["update"], mean(everybody), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mixed.buffers["control"], mean(everybody, 1), rtol=1e-5, atol=1e-6)
        assert mixed.weight == sum(p + 1 for p in everybody)
        assert abs(mixed.loss - sum(p * (p + 1) for p in everybody) / mixed.weight) < 1e-5
        assert (mixed.parties, mixed.left_out, mixed.stop) == (PARTIES, (), False)
        # Sums of ranks are encoded, not what each party brings.
        assert mixed.payload_bytes == mixed.plain_bytes == (0 if make is reduced else PARTIES * 2 * 4 * N)
        tail = 5
        assert (
            dense_bytes(2 * N, transport.size)
            <= mixed.dense_bytes
            <= dense_bytes(2 * N + tail, transport.size)
        )
        same_everywhere(transport, mixed)


def law_one_by_one_or_together_is_the_same_mean(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, TOTAL)
    for number in hosted(transport):
        add(exchange, [number])
    torch.testing.assert_close(mix(exchange).buffers["update"], mean(range(PARTIES)), rtol=1e-5, atol=1e-6)


def law_a_spoilt_party_is_left_out_and_named(transport: Transport, make: Make) -> None:
    for names in (("update",), ("update", "control")):
        exchange = make(transport, Ledger(), names)
        for round_, value in enumerate((float("nan"), float("inf"), -float("inf"))):
            exchange.open(round_, TOTAL)
            add(exchange, hosted(transport), names, p2=value, p5=value)
            mixed = mix(exchange)
            assert mixed.left_out == (2, 5)
            assert mixed.parties == PARTIES - 2
            for b, name in enumerate(names):
                wanted = mean([0, 1, 3, 4, 6], b)
                torch.testing.assert_close(mixed.buffers[name], wanted, rtol=1e-5, atol=1e-6)
            same_everywhere(transport, mixed)


def law_a_loss_that_is_not_finite_leaves_its_party_out(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, 2.0 * transport.size)
    ids = [2 * transport.rank, 2 * transport.rank + 1]
    losses = torch.tensor([1.0, float("nan")])
    exchange.add(ids, {"update": torch.ones(2, N)}, np.ones(2, np.float32), losses)
    mixed = mix(exchange)
    assert mixed.left_out == tuple(range(1, 2 * transport.size, 2))
    assert abs(mixed.loss - 1.0) < 1e-6
    assert mixed.weight == transport.size


def law_large_but_finite_updates_take_part(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, 100 * transport.size)
    rows = torch.full((1, N), 3e38)
    exchange.add([transport.rank], {"update": rows}, np.full(1, 100, np.float32), torch.zeros(1))
    mixed = mix(exchange)
    assert mixed.left_out == ()
    torch.testing.assert_close(mixed.buffers["update"], rows[0], rtol=1e-6, atol=0.0)


def law_nobody_contributes_nothing_changes(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, TOTAL)
    mixed = mix(exchange)
    assert (mixed.parties, mixed.payload_bytes) == (0, 0)
    assert np.isnan(mixed.loss)
    assert (mixed.buffers["update"] == 0).all()


def law_parties_without_weight_change_nothing(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, 0.0)
    exchange.add([transport.rank], {"update": torch.ones(1, N)}, np.zeros(1, np.float32), torch.ones(1))
    mixed = mix(exchange)
    assert (mixed.parties, mixed.weight) == (transport.size, 0.0)
    assert (mixed.buffers["update"] == 0).all()


def law_one_rank_stops_all(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, TOTAL)
    assert mix(exchange, stop=transport.rank == transport.size - 1).stop


def law_started_and_waited_is_the_same(transport: Transport, make: Make) -> None:
    exchange = make(transport, Ledger(), ("update",))
    exchange.open(0, TOTAL)
    add(exchange, hosted(transport))
    exchange.start().wait()
    torch.testing.assert_close(
        exchange.result().buffers["update"], mean(range(PARTIES)), rtol=1e-5, atol=1e-6
    )


def law_the_ledger_has_the_formulas_bytes(transport: Transport, make: Make) -> None:
    ledger, mine = Ledger(), hosted(transport)
    exchange = make(transport, ledger, ("update",))
    exchange.open(0, TOTAL)
    add(exchange, mine)
    mix(exchange)
    assert ledger.take() == sent(make, len(mine), transport.size)


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
