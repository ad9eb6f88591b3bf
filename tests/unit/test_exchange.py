"""The exchange laws over threads; messages that cannot be read."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from laws import exchange_laws, payload_laws

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity
from hpc_fl.errors import WireError
from hpc_fl.exchange.finite import finite_rows
from hpc_fl.exchange.message import Contribution, Incoming, Outgoing


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


@pytest.mark.parametrize(("weight", "loss"), [(-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_numbers_that_would_spoil_the_mean_are_refused(weight: float, loss: float) -> None:
    outgoing = Outgoing(0, 0)
    outgoing.add(Contribution(5, weight, loss, ()))
    with pytest.raises(WireError, match="party 5"):
        Incoming.unpack(np.frombuffer(outgoing.pack(False), np.uint8), 0, 0)
