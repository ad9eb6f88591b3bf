"""Laws of the records: every kind of bytes is counted, and what is saved is told of the exchange alone."""

import pytest

from hpc_fl.comm.inprocess import run_ranks
from hpc_fl.comm.transport import Transport
from hpc_fl.exchange import Mixed
from hpc_fl.metrics import KINDS, RoundRecords
from hpc_fl.telemetry import Ledger, Spans
from hpc_fl.training.evaluate import Scores

EXCHANGED = {"allreduce", "allgather", "gossip", "broadcast", "headers"}
DENSE = 1000


def mixed() -> Mixed:
    """A round in which nothing was encoded."""
    return Mixed(
        buffers={},
        weight=1.0,
        loss=0.5,
        parties=1,
        left_out=(),
        stop=False,
        payload_bytes=8,
        plain_bytes=8,
        dense_bytes=DENSE,
    )


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_every_kind_are_in_the_record_and_those_of_the_exchange_in_the_savings(
    kind: str, size: int
) -> None:
    def law(transport: Transport) -> None:
        ledger = Ledger()
        records = RoundRecords(transport, ledger, Spans())
        records.begin(0.0)
        ledger.add(kind, 100 * (transport.rank + 1))
        record = records.make(1, (0,), mixed(), None)
        assert (record is None) == (transport.rank != 0)
        if record is None:
            return
        total = 100 * size * (size + 1) // 2
        assert record["bytes_sent"][kind] == [100 * (rank + 1) for rank in range(size)]
        assert record["bytes_total"] == total
        share = f"{100 * (total if kind in EXCHANGED else 0) / (DENSE * size):.3g} %"
        assert records.savings()["exchange sent"].startswith(share)

    run_ranks(size, law)


def test_a_kind_that_no_record_has_is_refused() -> None:
    def law(transport: Transport) -> None:
        ledger = Ledger()
        ledger.add("rumour", 1)
        with pytest.raises(ValueError, match=r"rumour.*add them to KINDS"):
            RoundRecords(transport, ledger, Spans()).make(1, (0,), mixed(), None)

    run_ranks(1, law)


def test_scores_are_in_the_record_where_there_is_something_to_say() -> None:
    def law(transport: Transport) -> None:
        records = RoundRecords(transport, Ledger(), Spans())
        spread = {"min": 0.1, "mean": 0.2, "max": 0.3, "std": 0.1}
        whole = Scores(0.5, 0.25, spread, 0.125, spread, spread)
        record = records.make(1, (0,), mixed(), whole)
        assert record is not None
        assert record | whole.record() == record
        assert set(whole.record()) == {
            "loss",
            "accuracy",
            "party_accuracy",
            "consensus_distance",
            "model_accuracy",
            "model_loss",
        }
        assert Scores(0.5, None, None).record() == {"loss": 0.5}

    run_ranks(1, law)
