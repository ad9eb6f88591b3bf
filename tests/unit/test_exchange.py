"""The exchange laws over threads; messages that cannot be read."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import exchange_laws, payload_laws

from hpc_fl.collectives import Allgather, Gathering, allgather
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity, OneBit
from hpc_fl.errors import WireError
from hpc_fl.exchange import PayloadExchange, Plain
from hpc_fl.exchange.finite import finite_rows
from hpc_fl.exchange.message import Contribution, Incoming, Outgoing
from hpc_fl.telemetry import Ledger


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("make", exchange_laws.MAKERS.values(), ids=exchange_laws.MAKERS)
@pytest.mark.parametrize("law", exchange_laws.LAWS)
def test_law(
    law: Callable[[Transport, exchange_laws.Make], None], make: exchange_laws.Make, size: int
) -> None:
    run_ranks(size, lambda transport: law(transport, make))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("law", payload_laws.LAWS)
def test_law_of_payloads(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


def test_finite_rows_are_told_exactly() -> None:
    rows = torch.tensor(
        [[3e38, 3e38], [1.0, 2.0], [float("nan"), 0.0], [float("inf"), -float("inf")], [-3e38, -3e38]]
    )
    assert finite_rows(rows).tolist() == [True, True, False, False, True]
    assert finite_rows(torch.empty(3, 0)).tolist() == [True] * 3


def test_long_messages_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allgather, "_PIECE", 5)

    def ranks_hear_each_other(transport: Transport) -> None:
        gathering = Allgather(transport, Ledger()).start(bytes(range(7 * transport.rank)), 0)
        gathering.wait()
        for rank, data in enumerate(gathering.messages):
            assert data.tolist() == list(range(7 * rank))

    run_ranks(3, ranks_hear_each_other)


def message(round_: int = 3, stop: bool = False) -> bytes:
    """Two parties with two buffers each, one party left out."""
    outgoing = Outgoing(round_, 2)
    for number in (4, 7):
        payloads = tuple(Identity().encode(torch.full((5,), float(number + b))) for b in range(2))
        outgoing.add(Contribution(number, 2.0, 0.5, payloads))
    outgoing.left_out.append(9)
    assert outgoing.payload_bytes == 2 * 2 * 20
    return outgoing.pack(stop)


def unpack(data: bytes, round_: int = 3) -> Incoming:
    return Incoming.unpack(np.frombuffer(data, np.uint8), round_, 2)


@pytest.mark.parametrize("stop", [False, True])
def test_a_message_arrives_as_it_was(stop: bool) -> None:
    found = unpack(message(stop=stop))
    assert (found.stop, list(found.left_out)) == (stop, [9])
    assert [(c.party_id, c.weight, c.loss) for c in found.contributions] == [(4, 2.0, 0.5), (7, 2.0, 0.5)]
    out = torch.zeros(5)
    Identity().decode(found.contributions[1].payloads[1], out)
    assert (out == 8.0).all()


def test_every_altered_or_missing_byte_is_noticed() -> None:
    whole = message()
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 0x41
        with pytest.raises(WireError):
            unpack(bytes(altered))
        with pytest.raises(WireError):
            unpack(whole[:place])
    with pytest.raises(WireError, match="belong to no party"):
        unpack(whole + b"x")


def test_a_payload_that_cannot_be_read_is_named_with_its_party() -> None:
    altered = bytearray(message())
    altered[-8] ^= 1
    with pytest.raises(WireError, match=r"party 7: .*checksum"):
        unpack(bytes(altered))


def test_a_message_of_another_round_is_refused() -> None:
    with pytest.raises(WireError, match="round 3 with 2 buffers, expected round 4"):
        unpack(message(), 4)


class Spoiling(Allgather):
    """Alters the last payload on its way."""

    def start(self, message: bytes | bytearray, payload_bytes: int) -> Gathering:
        altered = bytearray(message)
        altered[-8] ^= 1
        return super().start(altered, payload_bytes)


def test_what_cannot_be_decoded_is_named_with_its_rank_and_party() -> None:
    def exchange(collective: Allgather, encoder: Plain) -> PayloadExchange:
        device = torch.device("cpu")
        return PayloadExchange(solo(), Identity(), {"update": encoder}, collective, n=5, device=device)

    altered = exchange(Spoiling(solo(), Ledger()), Plain(Identity()))
    foreign = exchange(Allgather(solo(), Ledger()), Plain(OneBit()))
    for one, why in ((altered, "checksum"), (foreign, "codec")):
        one.open(0, 1.0)
        one.add([4], {"update": torch.ones(1, 5)}, np.ones(1, np.float32), torch.zeros(1))
        one.travel()
        with pytest.raises(WireError, match=rf"rank 0: party 4: .*{why}"):
            one.result()


@pytest.mark.parametrize(("weight", "loss"), [(-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_numbers_that_would_spoil_the_mean_are_refused(weight: float, loss: float) -> None:
    outgoing = Outgoing(0, 0)
    outgoing.add(Contribution(5, weight, loss, ()))
    with pytest.raises(WireError, match="party 5"):
        Incoming.unpack(np.frombuffer(outgoing.pack(False), np.uint8), 0, 0)
