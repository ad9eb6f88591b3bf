"""The flat buffer: views, ties, frozen weights, half precision, buffers."""

import pytest
import torch
from torch import nn

from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.embed(x))
        return out


def test_every_parameter_is_a_view_and_writes_go_both_ways() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = [p.detach().clone() for p in module.parameters()]
    flat = FlatModel(module)
    assert flat.n == flat.trainable == sum(p.numel() for p in before)
    assert torch.equal(flat.values, torch.cat([p.flatten() for p in before]))
    flat.load(torch.arange(flat.n, dtype=torch.float32))
    assert torch.equal(
        torch.cat([p.detach().flatten() for p in module.parameters()]), torch.arange(flat.n).float()
    )
    with torch.no_grad():
        module.get_parameter("0.bias").fill_(7.0)
    assert (flat.segments[1].of(flat.values) == 7.0).all()
    assert all(p.data_ptr() >= flat.values.data_ptr() for p in module.parameters())


def test_the_flat_gradient_is_the_modules_gradient() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    flat = FlatModel(module)
    module(torch.randn(5, 4)).square().sum().backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert torch.equal(flat.collect_grads(), expected)
    assert all(p.grad is None for p in module.parameters())
    assert (flat.collect_grads() == 0).all(), "no backward pass since: zero"


def test_tied_weights_count_once() -> None:
    module = Tied()
    flat = FlatModel(module)
    assert flat.n == 15
    flat.load(torch.randn(15))
    assert torch.equal(module.head.weight, module.embed.weight)
    module(torch.tensor([1, 2])).sum().backward()
    assert flat.collect_grads().shape == (15,)


def test_frozen_parameters_stay_and_do_not_travel() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    weight = module.get_parameter("0.weight").requires_grad_(False)
    frozen = weight.detach().clone()
    flat = FlatModel(module)
    assert flat.n == 3 + 6 + 2
    flat.load(torch.zeros(flat.n))
    assert torch.equal(weight, frozen)
    assert list(flat.frozen()) == ["0.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_float32_master(dtype: torch.dtype) -> None:
    module = nn.Linear(4, 3).to(dtype)
    flat = FlatModel(module)
    assert not flat.plain
    master = torch.randn(flat.n)
    flat.load(master)
    assert torch.equal(flat.values, master), "the master keeps what half precision rounds"
    assert torch.equal(module.weight.flatten(), master[:12].to(dtype))
    module(torch.randn(2, 4, dtype=dtype)).sum().backward()
    grads = flat.collect_grads()
    assert grads.dtype == torch.float32
    assert (grads[12:] == 2).all()


def test_batchnorm_statistics_are_averaged_and_counters_are_local() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    flat = FlatModel(module)
    assert flat.trainable == 12 + 3 + 3 + 3
    assert [s.name for s in flat.buffer_segments] == ["1.running_mean", "1.running_var"]
    assert list(flat.local_state()) == ["1.num_batches_tracked"]
    module(torch.randn(8, 4))
    mean = module.get_buffer("1.running_mean")
    assert torch.equal(flat.values[flat.trainable : flat.trainable + 3], mean), "updated in place"
    state = flat.local_state()
    assert state["1.num_batches_tracked"] == 1
    module(torch.randn(8, 4))
    flat.load_local_state(state)
    assert module[1].num_batches_tracked == 1


def test_buffer_rules_are_by_pattern_and_an_averaged_counter_is_rounded() -> None:
    module = nn.BatchNorm1d(3)
    flat = FlatModel(module, {"running_*": "local", "num_*": "mean"})
    assert [s.name for s in flat.buffer_segments] == ["num_batches_tracked"]
    assert list(flat.local_state()) == ["running_mean", "running_var"]
    module(torch.randn(4, 3))
    flat.collect_buffers()
    assert flat.values[-1] == 1.0
    flat.values[-1] = 2.6
    flat.publish()
    assert module.num_batches_tracked == 3


def test_a_rule_for_no_buffer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"runing_mean.*running_mean"):
        FlatModel(nn.BatchNorm1d(3), {"runing_mean": "local"})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "no trainable parameter"),
        (nn.Linear(2, 2).double(), "float32"),
        (nn.Linear(2, 2).to(torch.complex64), "float32"),
    ],
)
def test_what_a_float32_buffer_cannot_hold_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FlatModel(module)


def test_scalar_and_empty_parameters_have_their_place() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.0))
    module.none = nn.Parameter(torch.empty(0, 3))
    flat = FlatModel(module)
    assert flat.n == 1
    rows = torch.tensor([[1.0], [2.0]])
    assert flat.segments[0].of(rows).shape == (2,)
    assert flat.segments[1].of(rows).shape == (2, 0, 3)
