"""The exchange laws over threads; what an exchange refuses."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
import torch
from laws.exchange_laws import LAWS

from hpc_fl.collectives import DenseAllreduce
from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Identity
from hpc_fl.errors import ConfigError
from hpc_fl.exchange import Exchange, finite_rows
from hpc_fl.telemetry import Ledger


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("law", LAWS)
def test_law(law: Callable[[Transport], None], size: int) -> None:
    run_ranks(size, law)


def test_finite_rows_are_told_exactly() -> None:
    rows = torch.tensor(
        [[3e38, 3e38], [1.0, 2.0], [float("nan"), 0.0], [float("inf"), -float("inf")], [-3e38, -3e38]]
    )
    assert finite_rows(rows).tolist() == [True, True, False, False, True]
    assert finite_rows(torch.empty(3, 0)).tolist() == [True] * 3


def test_a_loss_that_is_not_finite_leaves_its_party_out() -> None:
    exchange = Exchange(
        solo(),
        Identity(),
        DenseAllreduce(solo(), Ledger()),
        n=2,
        names=("update",),
        device=torch.device("cpu"),
    )
    exchange.open(2.0)
    losses = torch.tensor([1.0, float("nan")])
    exchange.add([3, 4], {"update": torch.ones(2, 2)}, np.ones(2, np.float32), losses)
    mixed = exchange.mix()
    assert (mixed.left_out, mixed.loss, mixed.weight) == ((4,), 1.0, 1.0)


def test_a_codec_that_the_collective_cannot_carry_is_refused() -> None:
    class Nonlinear(Identity):
        name: ClassVar[str] = "nonlinear"
        linear: ClassVar[bool] = False

    collective = DenseAllreduce(solo(), Ledger())
    with pytest.raises(ConfigError, match="nonlinear cannot travel"):
        Exchange(solo(), Nonlinear(), collective, n=1, names=("update",), device=torch.device("cpu"))
