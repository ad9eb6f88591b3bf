"""The in-place step that is made of a graph of gradients, against the step out of place."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from hpc_fl.training.rewrite import Descent, simplify

Gradients = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def swapped(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (x + p - q).sum(1), q.view(p.shape), p


def shared(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    both = torch.bmm(x, x)
    return (x + p - q).sum(1), both, both


def products(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (x + p - q).sum(1), torch.bmm(x, x), torch.bmm(x, p.transpose(1, 2))


def read_again(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    product = torch.bmm(x, x)
    return (product + p).sum(1), product, torch.bmm(product, q)


def itself(x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (x + p - q).sum(1), p.transpose(1, 2).transpose(1, 2), q * 2


@pytest.mark.parametrize("gradients", [swapped, shared, products, read_again, itself])
@pytest.mark.parametrize("contiguous", [True, False])
def test_a_step_in_place_is_the_step(gradients: Gradients, contiguous: bool) -> None:
    torch.manual_seed(0)
    x, p, q = torch.randn(3, 2, 4, 4).unbind(1)[0], *torch.randn(2, 3, 4, 4).unbind(0)
    if not contiguous:
        p = torch.randn(3, 5, 5)[:, :4, :4]
    kept, *grads = gradients(x, p, q)
    wanted = [p - 0.5 * grads[0], q - 0.5 * grads[1]]
    graph = make_fx(gradients)(x, p, q)
    simplify(graph, (x, p, q))
    found = Descent(graph, [p, q]).bind([p, q], 0.5)(x)
    torch.testing.assert_close(found, kept)
    torch.testing.assert_close([p, q], wanted)
