"""Per-step optimisers: their laws, what they send, and what is a mistake; ranks are threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from laws import optimizer_laws
from laws.optimizer_laws import IDLE, MAKERS, WARMUP, Make, feed, gradient, model, run, set_up
from torch import Tensor, nn

from hpc_fl.collectives.agreement import RECORD_BYTES
from hpc_fl.collectives.dense import dense_bytes
from hpc_fl.collectives.front_door import reduction
from hpc_fl.collectives.shards import sharded_bytes
from hpc_fl.comm.inprocess import InProcessTransport, run_ranks, solo
from hpc_fl.compression import QSGD, Identity, OneBit, TopK
from hpc_fl.compression.base import Base
from hpc_fl.errors import CheckpointError, ConfigError
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers import Moments, OneBitAdam, OneBitLamb, ZeroOneAdam
from hpc_fl.optimizers.norms import norm

N = model().trainable
STEPS = 14
ranks = pytest.mark.parametrize("size", [1, 2, 3, 4])
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@ranks
@makers
@pytest.mark.parametrize("law", optimizer_laws.LAWS)
def test_law(law: Callable[[InProcessTransport, Make], None], make: Make, size: int) -> None:
    run_ranks(size, lambda transport: law(transport, make))


@ranks
@pytest.mark.parametrize("kind", [OneBitAdam, OneBitLamb])
def test_bytes_follow_the_formulas(kind: type[OneBitAdam | OneBitLamb], size: int) -> None:
    codec = OneBit(block=64)

    def work(transport: InProcessTransport) -> None:
        flat, optimizer, ledger = set_up(transport, kind, codec, warmup=WARMUP)
        for step in range(6):
            run(transport, flat, optimizer, 1)
            sent = ledger.take()
            compressed = sharded_bytes(codec, N, size, transport.rank)
            expected = dense_bytes(N, size) if step < WARMUP else compressed
            assert sent.get("allreduce", 0) == expected
            assert set(sent) <= {"allreduce", "headers"}
            if step < WARMUP:
                assert sent.get("headers", 0) == (size - 1) * (RECORD_BYTES + 1)

    run_ranks(size, work)


def test_local_steps_send_nothing() -> None:
    def work(transport: InProcessTransport) -> list[int]:
        flat, optimizer, ledger = set_up(transport, MAKERS["zero one adam"])
        sent = []
        for _ in range(STEPS):
            run(transport, flat, optimizer, 1)
            sent.append(sum(ledger.take().values()))
        return sent

    for sent in run_ranks(3, work):
        assert [step for step in range(STEPS) if not sent[step]] == [8, 10, 12, 13]


@pytest.mark.parametrize("codec", [TopK(ratio=0.1), QSGD(width=4), OneBit(block=16)])
@makers
def test_other_codecs_take_the_place_of_one_bit(make: Make, codec: Base) -> None:
    def work(transport: InProcessTransport) -> None:
        flat, optimizer, _ = set_up(transport, make, codec)
        for _ in range(10):
            run(transport, flat, optimizer, 1)
            assert not optimizer_laws.together(optimizer) or optimizer_laws.agreed(transport, flat.params)

    run_ranks(3, work)


@makers
def test_weights_are_those_of_the_mean(make: Make) -> None:
    """Weights 1 and 3 are one rank with that gradient and three with this one."""

    def weighted(transport: InProcessTransport) -> Tensor:
        flat, optimizer, _ = set_up(transport, make, Identity())
        for step in range(10):
            feed(flat, gradient(transport.rank, step, N))
            optimizer.step(weight=1.0 if transport.rank == 0 else 3.0)
        return flat.params

    def repeated(transport: InProcessTransport) -> Tensor:
        flat, optimizer, _ = set_up(transport, make, Identity())
        for step in range(10):
            feed(flat, gradient(min(transport.rank, 1), step, N))
            optimizer.step()
        return flat.params

    torch.testing.assert_close(run_ranks(2, weighted)[0], run_ranks(4, repeated)[0], rtol=1e-5, atol=1e-5)


@makers
def test_an_element_without_gradients_stays(make: Make) -> None:
    def work(transport: InProcessTransport) -> None:
        flat, optimizer, _ = set_up(transport, make)
        before = flat.params[IDLE].item()
        run(transport, flat, optimizer, STEPS)
        assert flat.params[IDLE].item() == before
        assert optimizer.idle.tolist() == [IDLE]

    run_ranks(3, work)


@makers
@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (3, 1)])
def test_a_run_goes_on_in_a_world_of_another_size(make: Make, before: int, after: int) -> None:
    def first(transport: InProcessTransport) -> tuple[dict[str, Tensor], Tensor]:
        flat, optimizer, _ = set_up(transport, make)
        run(transport, flat, optimizer, 8)
        return optimizer.state_dict(), flat.params.clone()

    saved = run_ranks(before, first)

    def then(transport: InProcessTransport) -> None:
        flat, optimizer, _ = set_up(transport, make)
        mine = [state for rank, (state, _) in enumerate(saved) if rank % after == transport.rank]
        common = {
            name: t for name, t in saved[0][0].items() if not name.startswith(("dense.", "compressed."))
        }
        optimizer.load_state_dict(*(mine or [common]))
        flat.load(saved[0][1])
        for _ in range(5):
            run(transport, flat, optimizer, 1)
            assert not optimizer_laws.together(optimizer) or optimizer_laws.agreed(transport, flat.params)

    run_ranks(after, then)


def test_lr_is_in_force_from_the_next_step() -> None:
    flat, optimizer, _ = set_up(solo(), MAKERS["onebit adam"])
    run(solo(), flat, optimizer, 1)
    before = flat.params.clone()
    optimizer.lr = 0.0
    run(solo(), flat, optimizer, 6)
    assert flat.params.equal(before)


def test_zero_one_adam_says_that_it_divides_by_lr() -> None:
    flat, optimizer, _ = set_up(solo(), MAKERS["zero one adam"])
    run(solo(), flat, optimizer, 3)
    optimizer.lr = 0.0
    with pytest.raises(ConfigError, match=r"ZeroOneAdam: lr = 0.0 given; above 0 \(m is found"):
        run(solo(), flat, optimizer, 1)


def test_half_precision_weights_follow() -> None:
    flat = FlatModel(nn.Linear(4, 2).bfloat16())
    optimizer = OneBitAdam(flat, reduction(solo()), reduction(solo(), OneBit()), warmup=1, lr=0.1)
    before = flat.parameters[0].clone()
    flat(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert flat.parameters[0].dtype == torch.bfloat16
    assert not flat.parameters[0].equal(before)
    assert flat.parameters[0].equal(flat.segments[0].of(flat.params).bfloat16())


def test_zero_grad_forgets() -> None:
    flat, optimizer, _ = set_up(solo(), MAKERS["onebit adam"])
    feed(flat, gradient(0, 0, N))
    optimizer.zero_grad()
    before = flat.params.clone()
    optimizer.step()
    assert flat.params.equal(before)


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 40_000, 200_000])
def test_norms_do_not_depend_on_threads(n: int) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(norm(x).item())
    torch.set_num_threads(threads)
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(float(x.double().norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (OneBitAdam, {"lr": 0.0}, r"OneBitAdam: lr = 0.0 given; a finite number above 0 expected"),
        (OneBitLamb, {"lr": float("nan")}, "OneBitLamb: lr = nan given"),
        (
            OneBitAdam,
            {"betas": (0.9, 1.0)},
            r"betas = \(0.9, 1.0\) given; two numbers, 0 or more and",
        ),
        (ZeroOneAdam, {"betas": (-0.1, 0.9)}, r"ZeroOneAdam: betas = \(-0.1, 0.9\) given"),
        (OneBitAdam, {"eps": 0.0}, "eps = 0.0 given; a finite number above 0"),
        (OneBitAdam, {"weight_decay": -1.0}, "weight_decay = -1.0 given; a finite number, 0 or more,"),
        (OneBitAdam, {"warmup": -1}, r"OneBitAdam: warmup = -1 given; 1 or more \(steps that measure"),
        (OneBitLamb, {"warmup": 0}, r"OneBitLamb: warmup = 0 given; 1 or more \(steps that measure"),
        (OneBitLamb, {"beta3": 1.0}, "beta3 = 1.0 given; 0 or more and below 1 expected"),
        (ZeroOneAdam, {"kappa": 0}, "kappa = 0 given; 1 or more expected"),
        (ZeroOneAdam, {"freeze": 0}, "freeze = 0 given; 1 or more, or None, expected"),
        (ZeroOneAdam, {"doubling": 0}, "doubling = 0 given"),
        (ZeroOneAdam, {"longest": 0}, "longest = 0 given"),
    ],
)
def test_mistakes_are_named(kind: type[Moments], options: dict[str, Any], said: str) -> None:
    given = ({} if kind is ZeroOneAdam else {"warmup": 1}) | options
    with pytest.raises(ConfigError, match=said):
        set_up(solo(), kind, **given)


def test_a_state_of_something_else_is_refused_and_changes_nothing() -> None:
    flat, optimizer, _ = set_up(solo(), MAKERS["onebit adam"])
    run(solo(), flat, optimizer, 2)
    before = optimizer.state_dict()
    with pytest.raises(CheckpointError, match="OneBitAdam: steps: nothing found, shape"):
        optimizer.load_state_dict({})
    with pytest.raises(CheckpointError, match=r"momentum: shape \(4,\) found, shape \(163,\) expected"):
        optimizer.load_state_dict({**before, "momentum": torch.zeros(4)})
    assert all(before[name].equal(tensor) for name, tensor in optimizer.state_dict().items())
