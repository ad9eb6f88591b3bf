"""What holds for updates that travel as payloads, for any number of ranks. Every rank calls each law with its
transport.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from laws.exchange_laws import PARTIES, TOTAL, add, hosted, mix, party, payloads, same_everywhere

from hpc_fl.comm.inprocess import solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import QSGD, Codec, ErrorFeedback, OneBit, TopK
from hpc_fl.exchange import Encoder, Exchange, Plain
from hpc_fl.telemetry import Ledger

WAYS: Final[dict[str, tuple[Codec, Callable[[Codec], Encoder]]]] = {
    "topk": (TopK(ratio=0.1), ErrorFeedback),
    "onebit": (OneBit(), ErrorFeedback),
    "qsgd": (QSGD(width=4), Plain),
    "topk alone": (TopK(ratio=0.1), Plain),
}
ONE: Final = ("update",)


def rounds_of(transport: Transport, exchange: Exchange, rounds: range) -> list[torch.Tensor]:
    """The means of several rounds, all parties taking part with the same update in each."""
    means = []
    for round_ in rounds:
        exchange.open(round_, TOTAL)
        add(exchange, hosted(transport))
        mixed = mix(exchange)
        same_everywhere(transport, mixed)
        means.append(mixed.buffers["update"].clone())
    return means


def law_the_number_of_ranks_changes_nothing(transport: Transport) -> None:
    for codec, encoder in WAYS.values():
        here = payloads(transport, Ledger(), ONE, codec, encoder)
        alone = payloads(solo(), Ledger(), ONE, codec, encoder)
        many, one = rounds_of(transport, here, range(3)), rounds_of(solo(), alone, range(3))
        assert all(torch.equal(a, b) for a, b in zip(many, one, strict=True))


def law_what_error_feedback_keeps_back_comes_later(transport: Transport) -> None:
    """Over all rounds: sum of means + weighted mean of what is kept now = sum of the mean updates."""
    exchange = payloads(transport, Ledger(), ONE, TopK(ratio=0.1), ErrorFeedback)
    arrived = torch.stack(rounds_of(transport, exchange, range(4))).sum(0)
    kept = torch.zeros_like(arrived)
    for number, state in exchange.state().items():
        kept += state["update.residual"] * ((number + 1) / TOTAL)
    transport.allreduce(kept)
    wanted = 4 * torch.stack([party(p, 0) * ((p + 1) / TOTAL) for p in range(PARTIES)]).sum(0)
    assert arrived.count_nonzero() > 0 < kept.count_nonzero()
    torch.testing.assert_close(arrived + kept, wanted, rtol=1e-5, atol=1e-5)


def law_a_restored_exchange_goes_on_with_the_same_bits(transport: Transport) -> None:
    """Also when the parties have moved to another number of ranks."""
    for codec, encoder in WAYS.values():
        whole = payloads(transport, Ledger(), ONE, codec, encoder)
        first = payloads(transport, Ledger(), ONE, codec, encoder)
        rounds_of(transport, first, range(2))
        state = {number: {k: v.clone() for k, v in kept.items()} for number, kept in first.state().items()}
        assert sorted(state) == (hosted(transport) if encoder is ErrorFeedback else [])
        then = payloads(transport, Ledger(), ONE, codec, encoder)
        then.restore(state)
        wanted = rounds_of(transport, whole, range(4))[2:]
        for a, b in zip(rounds_of(transport, then, range(2, 4)), wanted, strict=True):
            assert torch.equal(a, b)


def law_a_party_left_out_keeps_its_residual(transport: Transport) -> None:
    names = ("update", "control")
    exchange = payloads(transport, Ledger(), names, TopK(ratio=0.1), ErrorFeedback)
    for round_, spoil in enumerate(({}, {"p2": float("nan")})):
        before = {p: {k: v.clone() for k, v in kept.items()} for p, kept in exchange.state().items()}
        exchange.open(round_, TOTAL)
        add(exchange, hosted(transport), names, **spoil)
        mixed = mix(exchange)
    assert mixed.left_out == (2,)
    after = exchange.state()
    for number in hosted(transport):
        same = all(torch.equal(after[number][key], before[number][key]) for key in before[number])
        assert same is (number == 2), number


def law_topk_sends_8k_for_each_other_rank(transport: Transport) -> None:
    """One party a rank. Here int32 indices are the smallest form: k is small against n / 32."""
    n, k, ledger = 100_000, 10, Ledger()
    exchange = payloads(transport, ledger, ONE, TopK(k=k), Plain, n)
    exchange.open(0, transport.size)
    x = torch.randn(1, n, generator=torch.Generator().manual_seed(transport.rank))
    exchange.add([transport.rank], {"update": x}, np.ones(1, np.float32), torch.zeros(1))
    mixed = mix(exchange)
    others = transport.size - 1
    sent = ledger.take()
    assert sent["allgather"] <= 8 * k * others
    assert mixed.payload_bytes <= 8 * k * transport.size


LAWS = [value for name, value in list(globals().items()) if name.startswith("law_")]
