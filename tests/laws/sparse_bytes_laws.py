"""What a sparse reduction sends, for any number of ranks; see sparse_laws."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from laws.sparse_laws import MAKERS, Make, buffer, random, reducing, same_everywhere, selected

from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.sparse import Sparse
from hpc_fl.collectives.sparse_doubling import sparse_doubling_bytes
from hpc_fl.collectives.sparse_gather import gather_bytes
from hpc_fl.collectives.sparse_largest import ROUNDS
from hpc_fl.collectives.sparse_regions import regions_bytes
from hpc_fl.collectives.sparse_split import split_bytes
from hpc_fl.comm.transport import Request, Transport
from hpc_fl.compression import Payload, TopK
from hpc_fl.telemetry import Ledger


def law_what_is_counted_is_what_is_sent(transport: Transport, make: Make) -> None:
    """The ledger has the bytes of all messages, and those of the small collectives by their formulas."""
    if transport.size == 1:
        return
    n = 20_000
    counting, ledger = Counting(transport), Ledger()
    reduction = make(counting, ledger, TopK(ratio=0.01), refresh=2)
    for number in range(3):
        counting.clear()
        ledger.take()
        reduction.allreduce(buffer(transport.rank, n, number))
        counted = ledger.take()
        assert set(counted) == {"allreduce", "headers"}
        assert sum(counted.values()) == counting.sent + counting.around
        assert counted["allreduce"] == counting.payloads
    reduction.close()


def law_bytes_stay_below_the_formulas(transport: Transport) -> None:
    """Payload bytes of a rank, random data, little overlap; K is counted."""
    ranks, n = transport.size, 16_000
    for k in (16, 160, 12_000):
        rows = [selected(TopK(k=k), random(rank, n), 0, rank) for rank in range(ranks)]
        union = int((torch.stack(rows) != 0).any(0).sum())
        bounds = {
            "gather": gather_bytes(k, ranks),
            "doubling": sparse_doubling_bytes(k, union, n, ranks),
            "split": split_bytes(k, union, n, ranks),
            "regions": regions_bytes(k, ranks),
        }
        for scheme, bound in bounds.items():
            for call in range(2):
                sent = np.empty(ranks, np.int64)
                mine = sent_by(transport, scheme, k, random(transport.rank, n), call)
                transport.allgather(np.array([mine]), sent)
                # Few elements lie unevenly by chance: then the formula is the mean's.
                assert (sent.mean() if k < 100 else sent.max()) <= bound, (scheme, k, sent)


def law_parts_are_even_on_uneven_data(transport: Transport) -> None:
    """All that is large lies in a tenth of the buffer: one rank's, were the parts of equal length."""
    ranks, n, k = transport.size, 40_000, 1000
    for call in range(2):
        x = random(transport.rank, n)
        x[: n // 10] *= 100
        x[: k // ranks] *= 100  # the sum's largest lie in the first region alone
        assert sent_by(transport, "regions", k, x, call) <= regions_bytes(k, ranks) + 64 * ranks
        assert sent_by(transport, "split", k, x, call) <= split_bytes(k, min(n, ranks * k), n, ranks)


def law_regions_keep_about_k(transport: Transport) -> None:
    """k/2 to 2k elements, with a threshold of another call, exactly k where it is computed; the small
    collectives that find it run only then, or when it no longer fits.
    """
    if transport.size == 1:
        return
    n, k, refresh = 5000, 200, 4
    counting = Counting(transport)
    reduction = Sparse(counting, Ledger(), TopK(k=k), feedback=False, scheme="regions", refresh=refresh)
    for number in range(10):
        x = buffer(transport.rank, n, number) * (100 if number == 6 else 1)
        counting.clear()
        reduction.allreduce(x)
        passed = int((x != 0).sum())
        assert k / 2 <= passed <= 2 * k
        exact = number % refresh == 0 or number in (6, 7)
        assert counting.reductions == (ROUNDS - 2 if exact else 0) + (number % refresh == 0)
        assert passed == k or not exact
    reduction.close()


def law_uneven_owners_deal_out_again(transport: Transport) -> None:
    """What the ranks bring lies evenly, what is large of the sum in one owner's part."""
    ranks, k = transport.size, 800
    n = 4 * k * ranks
    x = torch.zeros(n)
    x[transport.rank :: 4 * ranks] = 1 + torch.rand(
        k, generator=torch.Generator().manual_seed(transport.rank)
    )
    x[: n // ranks] *= 100
    for global_k in (False, True):
        assert sent_by(transport, "regions", k, x, 0, global_k=global_k) <= regions_bytes(k, ranks)
        with reducing(MAKERS["regions"], transport, TopK(k=k), global_k=global_k) as reduction:
            y = x.clone()
            reduction.allreduce(y)
            assert ranks == 1 or int((y != 0).sum()) == k
            same_everywhere(transport, y)


def sent_by(
    transport: Transport, scheme: str, k: int, x: torch.Tensor, calls: int = 0, **options: Any
) -> int:
    """Payload bytes of the last of some calls."""
    ledger = Ledger()
    reduction = Sparse(transport, ledger, TopK(k=k), feedback=False, scheme=scheme, **options)
    for _ in range(calls + 1):
        ledger.take()
        reduction.allreduce(x.clone())
    reduction.close()
    return ledger.take().get("allreduce", 0)


class Counting:
    """A transport that counts what it is given to send, its duplicates included."""

    def __init__(self, transport: Transport, counts: dict[str, int] | None = None) -> None:
        self._transport, self._counts = transport, {} if counts is None else counts
        self.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def clear(self) -> None:
        self._counts |= {"sent": 0, "around": 0, "payloads": 0, "reductions": 0}

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    @property
    def sent(self) -> int:
        return self._counts["sent"]

    @property
    def around(self) -> int:
        return self._counts["around"]

    @property
    def payloads(self) -> int:
        return self._counts["payloads"]

    @property
    def reductions(self) -> int:
        return self._counts["reductions"]

    def dup(self) -> Transport:
        return Counting(self._transport.dup(), self._counts)

    def isend(self, buf: Any, dest: int, tag: int = 0) -> Request:
        self._counts["sent"] += buf.nbytes
        if buf.nbytes:
            self._counts["payloads"] += Payload.frombytes(buf.tobytes()).nbytes
        return self._transport.isend(buf, dest, tag)

    def allgather(self, send: Any, recv: Any) -> None:
        self._counts["around"] += (self._transport.size - 1) * send.nbytes
        self._transport.allgather(send, recv)

    def allreduce(self, buf: Any, op: str = "sum") -> None:
        self._counts["around"] += dense_bytes(buf.size, self._transport.size, buf.itemsize)
        self._counts["reductions"] += 1
        self._transport.allreduce(buf, "sum")


LAWS_OF_ALL: Final[tuple[Callable[[Transport], None], ...]] = (
    law_bytes_stay_below_the_formulas,
    law_parts_are_even_on_uneven_data,
    law_uneven_owners_deal_out_again,
    law_regions_keep_about_k,
)
