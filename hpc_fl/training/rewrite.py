"""Making a traced step cheap to replay: fewer operations, each by its cheapest callable."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

_aten = torch.ops.aten

_SHAPE_ONLY: Final = frozenset(
    (
        _aten.view.default,
        _aten._unsafe_view.default,
        _aten.expand.default,
        _aten.reshape.default,
        _aten.alias.default,
    )
)
_VIEWS: Final = _SHAPE_ONLY - {_aten.reshape.default} | {
    _aten.permute.default,
    _aten.squeeze.dim,
    _aten.t.default,
    _aten.transpose.int,
    _aten.unsqueeze.default,
}
_DETACH: Final = frozenset((_aten.detach.default, _aten.alias.default))

_BINDINGS: Final[dict[Any, Callable[..., Any]]] = {
    _aten._log_softmax.default: torch._log_softmax,
    _aten._unsafe_view.default: Tensor.view,
    _aten.add.Tensor: torch.add,
    _aten.add_.Tensor: Tensor.add_,
    _aten.addmm.default: torch.addmm,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.baddbmm_.default: Tensor.baddbmm_,
    _aten.bmm.default: torch.bmm,
    _aten.convolution.default: torch.convolution,
    _aten.exp.default: torch.exp,
    _aten.expand.default: Tensor.expand,
    _aten.gather.default: torch.gather,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.mul_.Tensor: Tensor.mul_,
    _aten.neg.default: torch.neg,
    _aten.permute.default: torch.permute,
    _aten.relu.default: torch.relu,
    _aten.scatter_add_.default: Tensor.scatter_add_,
    _aten.squeeze.dim: torch.squeeze,
    _aten.sub.Tensor: torch.sub,
    _aten.sum.dim_IntList: torch.sum,
    _aten.t.default: torch.t,
    _aten.transpose.int: torch.transpose,
    _aten.unsqueeze.default: torch.unsqueeze,
    _aten.view.default: Tensor.view,
}
"""Operations whose Python binding takes the same arguments: calling it costs a third of calling the
dispatcher's overload.
"""


def simplify(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Drops operations that change nothing, and turns or joins products where that saves a pass."""
    shapes = _Shapes(graph)
    shapes.run(*example)
    for node in list(graph.graph.nodes):
        source = _same_as(node, shapes.seen) or _untransposed(node) or _with_bias(node, shapes.seen)
        if source is not None:
            shapes.seen.setdefault(source, shapes.seen[node])
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


@dataclass(frozen=True)
class _View:
    """A view of a parameter, or of such a view: ``target(source, *args)``."""

    source: fx.Node
    target: Callable[..., Tensor]
    args: tuple[Any, ...]


class Descent:
    """A step of plain SGD, to be bound to parameters. Made of a graph (x, *targets, *parameters) -> (kept,
    *gradients), which it takes over; ``parameters``: an example of them.
    """

    def __init__(self, graph: fx.GraphModule, parameters: Sequence[Tensor]) -> None:
        self._own = _parameters_first(graph, len(parameters))
        self._views = _hoist_views(graph, self._own)
        _update_in_place(graph, self._own, [*self._own, *self._views], parameters)
        self._function = replayable(graph)

    def bind(self, parameters: Sequence[Tensor], lr: float) -> Callable[..., Tensor]:
        """(x, *targets) -> kept, which changes ``parameters`` in place by -``lr`` times their gradients."""
        values = dict(zip(self._own, parameters, strict=True))
        for place, view in self._views.items():
            values[place] = view.target(values[view.source], *view.args)
        return partial(self._function, -lr, *values.values())


def _parameters_first(graph: fx.GraphModule, count: int) -> list[fx.Node]:
    """Moves the last ``count`` arguments to the front, behind a new one for -lr; gives their new places."""
    nodes = graph.graph
    places = [node for node in nodes.nodes if node.op == "placeholder"]
    moved = []
    with nodes.inserting_before(places[0]):
        nodes.placeholder("minus_lr")
        for number, place in enumerate(places[-count:]):
            moved.append(nodes.placeholder(f"parameter_{number}"))
            place.replace_all_uses_with(moved[-1])
            nodes.erase_node(place)
    return moved


def _hoist_views(graph: fx.GraphModule, parameters: Sequence[fx.Node]) -> dict[fx.Node, _View]:
    """Makes arguments, behind the parameters, of their views: they are the same in every step."""
    nodes = graph.graph
    hoisted: dict[fx.Node, _View] = {}
    last = parameters[-1]
    for node in list(nodes.nodes):
        source = node.args[0] if node.op == "call_function" and node.args else None
        if node.target not in _VIEWS or not (source in parameters or source in hoisted):
            continue
        assert isinstance(source, fx.Node)
        assert callable(node.target)
        with nodes.inserting_after(last):
            last = nodes.placeholder(f"view_{len(hoisted)}")
        hoisted[last] = _View(source, node.target, node.args[1:])
        node.replace_all_uses_with(last)
        nodes.erase_node(node)
    return hoisted


def _update_in_place(
    graph: fx.GraphModule, own: Sequence[fx.Node], changing: Sequence[fx.Node], parameters: Sequence[Tensor]
) -> None:
    """Ends the graph with the updates of the parameters instead of with their gradients; ``changing``: the
    arguments whose memory is the parameters'.
    """
    nodes = graph.graph
    minus_lr, output = next(iter(nodes.nodes)), next(iter(reversed(nodes.nodes)))
    kept, *grads = output.args[0]
    with nodes.inserting_before(output):
        # A gradient that is (part of) a parameter would change with it.
        grads = [
            nodes.call_function(_aten.clone.default, (grad,)) if _memory_of(grad) in changing else grad
            for grad in grads
        ]
        for place, grad, example in zip(own, grads, parameters, strict=True):
            joins = grads.count(grad) == 1 and example.is_contiguous()
            factors = _factors(grad, changing) if joins else None
            update = _aten.add_.Tensor if factors is None else _aten.baddbmm_.default
            nodes.call_function(update, (place, *(factors or (grad,))), {"alpha": minus_lr})
    output.args = (kept,)
    # The products that are joined with their update are not needed by themselves.
    for grad in set(grads):
        if not grad.users:
            nodes.erase_node(grad)


def _factors(grad: fx.Node, changing: Sequence[fx.Node]) -> tuple[fx.Node, ...] | None:
    """A and B where ``grad`` is the product A B and nothing else reads it, unless they are parameters: those
    may have changed when the product is taken.
    """
    if grad.target is not _aten.bmm.default or len(grad.users) > 1:
        return None
    factors = tuple(arg for arg in grad.args if isinstance(arg, fx.Node))
    return None if any(_memory_of(factor) in changing for factor in factors) else factors


def _memory_of(node: fx.Node) -> fx.Node:
    """The node whose memory this one may share, as views and operations in place do."""
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        if node.target is not operator.getitem:
            assert isinstance(node.target, OpOverload)
            if all(one.alias_info is None for one in node.target._schema.returns):
                return node
        node = node.args[0]
    return node


def replayable(graph: fx.GraphModule) -> Callable[..., Any]:
    """The graph as a function, each operation bound to its cheapest callable."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and _keeps_meaning(node):
            node.target = _BINDINGS.get(node.target, node.target)
    graph.graph.set_codegen(fx.graph.CodeGen())
    graph.recompile()
    function: Callable[..., Any] = graph.forward
    return function


def _keeps_meaning(node: fx.Node) -> bool:
    """A scalar operand would take another overload of the Python binding, with other type promotion."""
    return node.target is not operator.getitem and all(not isinstance(a, float) for a in node.args[:2])


def _same_as(node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> fx.Node | None:
    """The node whose value this one repeats, if it does."""
    source = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in _DETACH:
        return source
    if node.target in _SHAPE_ONLY and shapes.get(node) == shapes.get(source):
        return source
    if node.target is _aten.mul.Scalar and node.args[1] == 1:
        return source
    inner = _transposed(node)
    return None if inner is None else _transposed(inner)


def _transposed(node: fx.Node) -> fx.Node | None:
    """The matrices that ``node`` is the transpose of, if it is one of (B, rows, columns)."""
    if node.target is _aten.transpose.int and set(node.args[1:]) in ({1, 2}, {-1, -2}):
        assert isinstance(node.args[0], fx.Node)
        return node.args[0]
    return None


def _untransposed(node: fx.Node) -> fx.Node | None:
    """(A' B)' as B' A: autograd forms a weight's gradient transposed, and every later pass would stride."""
    product = _transposed(node)
    if product is None or product.target is not _aten.bmm.default or len(product.users) > 1:
        return None
    left, right = product.args
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    first = _transposed(left)
    if first is None:
        return None
    with node.graph.inserting_before(node):
        turned = node.graph.call_function(_aten.transpose.int, (right, 1, 2))
        return node.graph.call_function(_aten.bmm.default, (turned, first))


def _with_bias(node: fx.Node, shapes: dict[fx.Node, torch.Size]) -> fx.Node | None:
    """bias + A B as one operation, where the bias (B, 1, columns) does not enlarge the product."""
    if node.target is not _aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return None
    bias, product = node.args
    if not (isinstance(bias, fx.Node) and isinstance(product, fx.Node)):
        return None
    fits = product.target is _aten.bmm.default and len(product.users) == 1 and shapes[node] == shapes[product]
    if not fits or len(shapes[bias]) != 3:
        return None
    with node.graph.inserting_before(node):
        return node.graph.call_function(_aten.baddbmm.default, (bias, *product.args))


class _Shapes(fx.Interpreter):
    """Runs the graph once and keeps the shape of every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.seen: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.seen[n] = result.shape
        return result
