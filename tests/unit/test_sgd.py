"""Sgd is torch.optim.SGD bit for bit, without what torch.optim drags in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from hpc_fl.training.optim import OptimizerSpec
from hpc_fl.training.sgd import Sgd

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "maximize": True},
    {"lr": 0.1, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.9},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"lr": 0.05, "momentum": 0.9, "nesterov": True, "maximize": True},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_bits_as_torch(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(shape, requires_grad=True) for shape in ((5, 3), (7,), ())]
    theirs = [p.detach().clone().requires_grad_() for p in ours]
    mine, torchs = Sgd(ours, **settings), torch.optim.SGD(theirs, **settings)
    for step in range(4):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            # The second parameter takes part from the third step on, the first not in the last.
            takes_part = (i != 1 or step > 1) and (i != 0 or step < 3)
            a.grad = torch.randn_like(a) if takes_part else None
            b.grad = _copy(a.grad)
        mine.step()
        torchs.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clone()


def test_gradients_are_left_as_they_are() -> None:
    parameter = torch.ones(3, requires_grad=True)
    parameter.grad = torch.ones(3)
    stepper = Sgd([parameter], 0.1, momentum=0.9, weight_decay=0.1, nesterov=True)
    stepper.step()
    stepper.step()
    assert torch.equal(parameter.grad, torch.ones(3))


@pytest.mark.parametrize(
    "settings", [{"lr": -1.0}, {"momentum": -0.1}, {"weight_decay": float("nan")}, {"nesterov": True}]
)
def test_what_torch_refuses_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sgd([torch.zeros(1)], **settings)


def test_sgd_with_an_option_of_its_own_implementation_is_torchs() -> None:
    parameters = [torch.zeros(1, requires_grad=True)]
    assert isinstance(OptimizerSpec("SGD", {"lr": 1.0}).stepper(parameters, 0.5), Sgd)
    foreach = OptimizerSpec("SGD", {"lr": 1.0, "foreach": True}).stepper(parameters, 0.5)
    assert isinstance(foreach, torch.optim.SGD)


def test_a_default_run_does_not_import_the_compiler() -> None:
    program = (
        "import sys, tempfile; from hpc_fl import make_config, train;"
        "train(make_config({'rounds': 1, 'model': 'logistic',"
        " 'telemetry': {'progress': False, 'report': False}}), run_dir=tempfile.mkdtemp() + '/run');"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
