"""What every per-step optimiser must obey, on any transport; and what their tests share.

A law takes a transport and is called by every rank with it. Gradients are drawn by rank and step, of very
unlike sizes, one element getting none, so that every rank knows what the others bring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from hpc_fl.collectives.front_door import reduction
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity, OneBit
from hpc_fl.compression.base import Base
from hpc_fl.flat import FlatModel
from hpc_fl.optimizers import Moments, OneBitAdam, OneBitLamb, ZeroOneAdam
from hpc_fl.telemetry.ledger import Ledger

Optimizer = TypeVar("Optimizer", bound=Moments)
Make = Callable[..., Moments]
Law = Callable[[Transport, Make], None]

WARMUP: Final = 3
MAKERS: Final[dict[str, Make]] = {
    "onebit adam": lambda *given, **options: OneBitAdam(*given, warmup=WARMUP, **options),
    "onebit lamb": lambda *given, **options: OneBitLamb(*given, warmup=WARMUP, **options),
    "zero one adam": lambda *given, **options: ZeroOneAdam(
        *given, **{"kappa": 2, "freeze": 6, "doubling": 2, "longest": 3} | options
    ),
}
IDLE: Final = 5
"""The element that gets no gradient."""


def model() -> FlatModel:
    """163 parameters in four layers, always the same ones: threads share the global generator."""
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    flat = FlatModel(module)
    flat.params.copy_(torch.randn(flat.trainable, generator=torch.Generator().manual_seed(1)))
    return flat


def gradient(rank: int, step: int, n: int) -> Tensor:
    """What a rank's batch gives in a step (n,): unlike from element to element and from rank to rank."""
    rng = torch.Generator().manual_seed(1000 * step + rank)
    sizes = torch.logspace(-3, 1, n)[torch.randperm(n, generator=torch.Generator().manual_seed(2))]
    g = (torch.randn(n, generator=rng) + 0.3) * sizes
    g[IDLE] = 0
    return g


def feed(flat: FlatModel, g: Tensor) -> None:
    """Puts a flat gradient where a backward pass would."""
    for segment, parameter in zip(flat.segments, flat.parameters, strict=True):
        parameter.grad = segment.of(g).clone().to(parameter.dtype)


def set_up(
    transport: Transport, make: Callable[..., Optimizer], codec: Base | None = None, **options: object
) -> tuple[FlatModel, Optimizer, Ledger]:
    """A model, its optimiser (lr 0.01 unless given) and the ledger of all that the optimiser sends."""
    flat, ledger = model(), Ledger()
    dense = reduction(transport, Identity(), ledger=ledger)
    compressed = reduction(transport, codec or OneBit(), ledger=ledger)
    return flat, make(flat, dense, compressed, **{"lr": 0.01, **options}), ledger


def run(transport: Transport, flat: FlatModel, optimizer: Moments, steps: int) -> list[Tensor]:
    """The parameters after each of the next steps."""
    seen = []
    for _ in range(steps):
        feed(flat, gradient(transport.rank, optimizer.steps, flat.trainable))
        optimizer.step()
        seen.append(flat.params.clone())
    return seen


def agreed(transport: Transport, x: Tensor) -> bool:
    """Whether all ranks have these bits."""
    return len(set(allgather_bytes(transport, x.numpy().tobytes()))) == 1


def together(optimizer: Moments) -> bool:
    """Whether ranks should have the same parameters now."""
    return not getattr(optimizer, "local_steps", 0)


def law_ranks_agree(transport: Transport, make: Make) -> None:
    """Ranks have the same bits after every step, but for local ones; and these do differ."""
    for preconditioned in (True, False):
        flat, optimizer, _ = set_up(transport, make, preconditioned=preconditioned, weight_decay=0.1)
        for _ in range(10):
            run(transport, flat, optimizer, 1)
            alike = agreed(transport, flat.params)
            assert alike == (together(optimizer) or transport.size == 1)
            assert bool(flat.params.isfinite().all())


def law_state_continues(transport: Transport, make: Make) -> None:
    """A new optimiser with the state of another goes on with the same bits, wherever it was saved."""
    for saved in (2, 9):
        flat, optimizer, _ = set_up(transport, make)
        run(transport, flat, optimizer, saved)
        state, params = load(save(optimizer.state_dict())), flat.params.clone()
        went_on = run(transport, flat, optimizer, 5)
        other, resumed, _ = set_up(transport, make)
        resumed.load_state_dict(state)
        other.load(params)
        for one, two in zip(went_on, run(transport, other, resumed, 5), strict=True):
            assert one.equal(two)


def law_a_bad_gradient_is_left_out(transport: Transport, make: Make) -> None:
    """A NaN of one rank reaches nobody, in dense and compressed steps; where all have one, nothing moves."""
    flat, optimizer, _ = set_up(transport, make)
    last = transport.size - 1
    for step in (0, 4):
        run(transport, flat, optimizer, step - optimizer.steps)
        g = gradient(transport.rank, step, flat.trainable)
        if transport.rank == last:
            g[7] = float("nan")
        feed(flat, g)
        before, counted = flat.params.clone(), optimizer.steps
        assert optimizer.step().left_out == (last,)
        assert bool(flat.params.isfinite().all())
        assert agreed(transport, flat.params)
        if transport.size == 1:
            assert flat.params.equal(before)
            assert optimizer.steps == counted


LAWS: Final[tuple[Law, ...]] = (law_ranks_agree, law_state_continues, law_a_bad_gradient_is_left_out)
