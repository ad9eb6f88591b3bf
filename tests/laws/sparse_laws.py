"""What a sparse reduction must do, for any number of ranks. Every rank calls each law with its transport, and
with what makes the reduction: of one scheme.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hpc_fl.collectives.sparse import SCHEMES, Sparse
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Threshold, TopK, WarmUp
from hpc_fl.compression.sparse import Sparse as Selecting
from hpc_fl.errors import CodecError, NotFiniteError, TransportError
from hpc_fl.telemetry import Ledger

Array = NDArray[np.float32]


class Make(Protocol):
    def __call__(self, transport: Transport, ledger: Ledger, codec: Selecting, **options: Any) -> Sparse: ...


EXACT: Final[dict[str, Make]] = {
    name: partial(Sparse, scheme=name, feedback=False) for name in SCHEMES if name != "regions"
}
MAKERS: Final[dict[str, Make]] = {
    **{name: partial(Sparse, scheme=name, feedback=True) for name in SCHEMES},
    **{f"{name}-global": partial(Sparse, scheme=name, feedback=True, global_k=True) for name in SCHEMES},
}
CODECS: Final[dict[str, tuple[int, Selecting]]] = {
    "nothing": (0, TopK(k=0)),
    "none": (33, TopK(k=0)),
    "one": (1, TopK(k=1)),
    "few": (1000, TopK(k=9)),
    "fewer than ranks": (5, TopK(k=2)),
    "many": (1000, TopK(ratio=0.6)),
    "all": (33, TopK(k=33)),
    "segments": (60, TopK(ratio=0.1, segments=(7, 0, 53))),
    "warm-up": (500, TopK(ratio=0.01, schedule=WarmUp(3))),
    "threshold": (700, Threshold(1.5)),
    "threshold of all": (31, Threshold(0.0)),
}

Cases = Iterable[tuple[int, Selecting]]
ALL: Final[Cases] = tuple(CODECS.values())


@contextmanager
def reducing(make: Make, transport: Transport, codec: Selecting, **options: Any) -> Iterator[Sparse]:
    reduction = make(transport, Ledger(), codec, **options)
    yield reduction
    reduction.close()


def buffer(rank: int, n: int, number: int = 0) -> torch.Tensor:
    """A rank's buffer (n,) of a call, the same wherever it is made; half of it is that of all ranks."""
    common = torch.randn(n, generator=torch.Generator().manual_seed(1000 + number))
    return common + torch.randn(n, generator=torch.Generator().manual_seed(7919 * rank + number))


def whole(rank: int, n: int, number: int = 0) -> torch.Tensor:
    """A buffer of integers, of which sums are exact and ties are many."""
    generator = torch.Generator().manual_seed(7919 * rank + number)
    return torch.randint(-9, 10, (n,), generator=generator).float()


def selected(codec: Selecting, x: torch.Tensor, number: int, rank: int) -> torch.Tensor:
    out = torch.empty_like(x)
    codec.decode(codec.at(number, rank).encode(x), out)
    return out


def same_everywhere(transport: Transport, x: torch.Tensor) -> None:
    assert len(set(allgather_bytes(transport, x.numpy().tobytes()))) == 1, "all ranks hold identical bits"


def residual_of(reduction: Sparse, n: int) -> torch.Tensor:
    return reduction.state().get("residual", torch.zeros(n)).clone()


def everybodys(transport: Transport, x: torch.Tensor) -> torch.Tensor:
    """A row for each rank, as float64."""
    rows = np.empty(transport.size * x.numel(), np.float32)
    transport.allgather(x.numpy(), rows)
    return torch.from_numpy(rows).view(transport.size, x.numel()).double()


def mean_of(rows: torch.Tensor, weights: list[float]) -> torch.Tensor:
    return (rows * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0) / sum(weights)


def law_the_exact_schemes_give_the_mean_of_the_payloads(
    transport: Transport, make: Make, cases: Cases = ALL
) -> None:
    """Of the decoded payloads, weighted; and the sum, where that is wanted. (Exact schemes only.)"""
    ranks = range(transport.size)
    weights = [1.0 + rank for rank in ranks]
    for n, codec in cases:
        for mean in (True, False):
            with reducing(make, transport, codec, mean=mean) as reduction:
                for number in range(2):
                    x = buffer(transport.rank, n, number)
                    reduced = reduction.allreduce(x, weights[transport.rank])
                    rows = [selected(codec, buffer(rank, n, number), number, rank) for rank in ranks]
                    if transport.size == 1:  # nothing travels, so nothing is lost
                        rows = [buffer(0, n, number)]
                    expected = mean_of(torch.stack(rows).double(), weights) * (1 if mean else sum(weights))
                    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)
                    assert (reduced.weight, reduced.left_out) == (sum(weights), ())
                    same_everywhere(transport, x)


def law_nothing_is_lost(transport: Transport, make: Make, cases: Cases = ALL) -> None:
    """Weighted mean of the inputs = result + weighted mean of what the residuals changed by."""
    weights = [1.0 + rank % 3 for rank in range(transport.size)]
    for n, codec in cases:
        with reducing(make, transport, codec, refresh=2) as reduction:
            before = residual_of(reduction, n)
            for number in range(4):
                x = buffer(transport.rank, n, number)
                inputs = everybodys(transport, x)
                reduction.allreduce(x, weights[transport.rank])
                after = residual_of(reduction, n)
                changes = everybodys(transport, after) - everybodys(transport, before)
                law = mean_of(inputs - changes, weights)
                torch.testing.assert_close(x.double(), law, rtol=1e-5, atol=1e-5)
                same_everywhere(transport, x)
                before = after


def law_a_rank_that_is_not_finite_is_left_out(transport: Transport, make: Make) -> None:
    n, codec, bad = 300, TopK(ratio=0.1), transport.size // 2
    with reducing(make, transport, codec) as reduction:
        reduction.allreduce(buffer(transport.rank, n))
        for spoiled in (float("nan"), float("inf"), float("-inf")):
            before, x = residual_of(reduction, n), buffer(transport.rank, n, 1)
            if transport.rank == bad:
                x[17] = spoiled
            inputs = everybodys(transport, x)
            reduced = reduction.allreduce(x, 2.0)
            after = residual_of(reduction, n)
            changes = everybodys(transport, after) - everybodys(transport, before)
            good = [float(rank != bad) for rank in range(transport.size)]
            assert (reduced.left_out, reduced.weight) == ((bad,), 2.0 * sum(good))
            assert bool(x.isfinite().all())
            assert bool((changes[bad] == 0).all()), "what it kept back stays as it was"
            if any(good):
                law = mean_of((inputs - changes).nan_to_num(), good)
                torch.testing.assert_close(x.double(), law, rtol=1e-5, atol=1e-5)
            same_everywhere(transport, x)
        assert reduction.allreduce(buffer(transport.rank, n, 2)).left_out == ()


def law_a_rank_without_weight_brings_nothing(transport: Transport, make: Make) -> None:
    n, codec, idle = 200, TopK(ratio=0.05), transport.size - 1
    with reducing(make, transport, codec) as reduction:
        for number in range(3):
            before, x = residual_of(reduction, n), buffer(transport.rank, n, number)
            if transport.rank == idle:
                x[3] = float("nan") if transport.size > 1 else 0.0
            inputs = everybodys(transport, x)
            weights = [float(rank != idle) for rank in range(transport.size)]
            reduced = reduction.allreduce(x, weights[transport.rank])
            assert (reduced.left_out, reduced.weight) == ((), sum(weights))
            if transport.size > 1:
                changes = everybodys(transport, residual_of(reduction, n)) - everybodys(transport, before)
                assert bool((changes[idle] == 0).all())
                law = mean_of((inputs - changes).nan_to_num(), weights)
                torch.testing.assert_close(x.double(), law, rtol=1e-5, atol=1e-5)
            else:
                assert not x.any()
            same_everywhere(transport, x)


def law_a_sum_that_is_too_large_changes_nothing(transport: Transport, make: Make) -> None:
    """Finite buffers whose sum is not: an error on every rank, and what was kept back stays."""
    n = 64
    with reducing(make, transport, TopK(k=5), mean=False) as reduction:
        for weight in (1.0, 1e30):
            before, x = residual_of(reduction, n), torch.ones(n)
            x[11], x[50] = -3e38, 3e38
            if transport.size > 1:
                with pytest.raises(NotFiniteError):
                    reduction.allreduce(x, weight)
                assert torch.equal(residual_of(reduction, n), before)
        x = buffer(transport.rank, n)
        assert reduction.allreduce(x).left_out == ()
        same_everywhere(transport, x)


def law_the_k_largest_of_the_sum(transport: Transport, make: Make) -> None:
    """Exactly k of them, ties by lower index; what is dropped returns. (Global top-k only.)"""
    if transport.size == 1:
        return
    ranks = range(transport.size)
    for n, k in ((50, 7), (1000, 100), (1000, 1), (12, 12), (40, 0)):
        codec = TopK(k=k)
        with reducing(make, transport, codec, mean=False) as reduction:
            x = whole(transport.rank, n)
            reduction.allreduce(x)
            total = torch.stack([selected(codec, whole(rank, n), 0, rank) for rank in ranks]).sum(0)
            assert torch.equal(x, selected(codec, total, 0, 0))
            brought = selected(codec, whole(transport.rank, n), 0, transport.rank)
            kept = whole(transport.rank, n) - torch.where(x != 0, brought, torch.zeros(n))
            assert torch.equal(residual_of(reduction, n), kept)


def law_a_restored_reduction_goes_on_with_the_same_bits(transport: Transport, make: Make) -> None:
    n, codec = 400, TopK(ratio=0.05)
    with (
        reducing(make, transport, codec, refresh=8) as one,
        reducing(make, transport, codec, refresh=8) as two,
    ):
        for number in range(3):
            one.allreduce(buffer(transport.rank, n, number))
        two.restore({name: kept.clone() for name, kept in one.state().items()})
        for number in range(3, 6):
            x, y = buffer(transport.rank, n, number), buffer(transport.rank, n, number)
            one.allreduce(x, round_=number)
            two.allreduce(y, round_=number)
            assert torch.equal(x, y)


def law_several_may_be_under_way(transport: Transport, make: Make) -> None:
    if not transport.concurrent:
        return
    n = 300
    with reducing(make, transport, TopK(k=20)) as one, reducing(make, transport, TopK(k=20)) as two:
        begun = [buffer(transport.rank, n, number) for number in range(3)]
        alone = [each.clone() for each in begun]
        for handle in [one.start(x) for x in begun]:
            handle.wait(30)
        for x, y in zip(begun, alone, strict=True):
            two.allreduce(y)
            assert torch.equal(x, y)


def law_options_that_differ_are_named(transport: Transport, make: Make) -> None:
    if transport.size > 1:
        with pytest.raises(TransportError, match=r"refresh: 3 on rank 0; 4 on rank"):
            make(transport, Ledger(), TopK(k=1), refresh=3 if transport.rank == 0 else 4)


def law_ranks_choose_alike_whatever_they_bring(transport: Transport) -> None:
    """With a threshold, ranks bring nothing, few or all."""
    n = 3000
    with reducing(EXACT["auto"], transport, Threshold(3.0)) as reduction:
        for number in range(4):
            scale = 10.0 ** (transport.rank % 4 - number)
            x = random(transport.rank, n, number) * scale
            rows = everybodys(transport, selected(Threshold(3.0), x, 0, 0) if transport.size > 1 else x)
            reduction.allreduce(x)
            torch.testing.assert_close(x.double(), rows.mean(0), rtol=1e-5, atol=1e-5)
            same_everywhere(transport, x)


def law_only_codecs_that_select_are_taken(transport: Transport) -> None:
    from hpc_fl.compression import OneBit

    with pytest.raises(CodecError, match="topk or threshold expected"):
        Sparse(transport, Ledger(), OneBit(), feedback=True)  # type: ignore[arg-type]
    with pytest.raises(
        CodecError, match=r"scheme 'ring' given; one of auto, gather, doubling, split, regions"
    ):
        Sparse(transport, Ledger(), TopK(k=1), feedback=True, scheme="ring")
    with pytest.raises(CodecError, match="refresh = 0"):
        Sparse(transport, Ledger(), TopK(k=1), feedback=True, refresh=0)


def random(rank: int, n: int, number: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(104729 * number + 31 * rank + 5))


Law = Callable[[Transport, Make], None]
LAWS: Final[tuple[Law, ...]] = (
    law_nothing_is_lost,
    law_a_rank_that_is_not_finite_is_left_out,
    law_a_rank_without_weight_brings_nothing,
    law_a_sum_that_is_too_large_changes_nothing,
    law_a_restored_reduction_goes_on_with_the_same_bits,
    law_several_may_be_under_way,
    law_options_that_differ_are_named,
)
GLOBAL: Final = {name: make for name, make in MAKERS.items() if name.endswith("-global")}
LAWS_OF_ALL: Final[tuple[Callable[[Transport], None], ...]] = (
    law_ranks_choose_alike_whatever_they_bring,
    law_only_codecs_that_select_are_taken,
)
