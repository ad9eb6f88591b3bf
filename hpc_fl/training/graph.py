"""The gradients of many parties as one traced graph of batched operations.

Training a small model is bounded by the interpreter, not by arithmetic: a step of logistic regression is 0.1
ms of products and 0.5 ms of Python. So the step of B parties is traced once into a flat list of batched
operations (``torch.func.vmap`` for the forward pass, autograd for the backward pass, ``make_fx`` to record
both), cleaned of operations that do nothing, and replayed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.losses import Loss

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
_DETACH: Final = frozenset((_aten.detach.default, _aten.alias.default))

_BINDINGS: Final[dict[Any, Callable[..., Any]]] = {
    _aten._log_softmax.default: torch._log_softmax,
    _aten._unsafe_view.default: Tensor.view,
    _aten.add.Tensor: torch.add,
    _aten.addmm.default: torch.addmm,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.bmm.default: torch.bmm,
    _aten.convolution.default: torch.convolution,
    _aten.exp_.default: torch.exp_,
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

Step = Callable[..., tuple[Tensor, ...]]


class PartyGradients:
    """The loss and the gradient of B parties, each at its own parameters and on its own batch.

    Traced once for each (B, batch shape): callers keep the number of different shapes small. Raises
    :class:`ModelError` for a model that cannot be batched: buffers changed in the forward pass (BatchNorm),
    randomness (dropout), half precision, control flow on data.
    """

    def __init__(self, model: FlatModel, loss: Loss) -> None:
        self._model = model
        self._loss = loss
        self._steps: dict[tuple[object, ...], Step] = {}
        self._closed = True
        _check_batchable(model)

    def views(self, values: Tensor) -> list[Tensor]:
        """Each parameter of the parties in ``values`` (B, n) as a view (B, *shape)."""
        return [segment.of(values) for segment in self._model.segments]

    def __call__(
        self, parameters: list[Tensor], x: Tensor, targets: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """Losses (B,) and the gradient of each parameter (B, *shape).

        ``parameters``: from :meth:`views`; ``x`` (B, b, ...); ``targets``: this step's, from :meth:`targets`.
        """
        signature = (x.shape, targets[0].shape, parameters[0].stride(0))
        step = self._steps.get(signature)
        if step is None:
            step = self._steps[signature] = self._trace(parameters, x, targets)
        loss, *grads = step(x, *targets, *parameters)
        return loss, grads

    def targets(self, y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """``y`` (..., b, *target) and ``weights`` (..., b) as the loss wants them, leading dimensions kept.

        A sample's weight is its share in its party's loss: 1/b in a full batch, 0 for filler.
        """
        prepared = self._loss.prepare(y, weights)
        self._closed = prepared is not None
        return (y, weights) if prepared is None else prepared

    @torch.enable_grad()
    def _trace(self, parameters: list[Tensor], x: Tensor, targets: tuple[Tensor, ...]) -> Step:
        inputs = (x, *targets, *parameters)
        try:
            graph = make_fx(self._step)(*inputs)
        except (RuntimeError, NotImplementedError, torch.fx.proxy.TraceError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the model cannot train many parties at once ({reason}); use training.executor: loop"
            ) from error
        _simplify(graph, inputs)
        return graph.forward

    def _step(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        names = [segment.name for segment in self._model.segments]
        targets, parameters = rest[: -len(names)], rest[-len(names) :]

        def outputs_of(one: tuple[Tensor, ...], samples: Tensor) -> Any:
            return functional_call(self._model.module, dict(zip(names, one, strict=True)), (samples,))

        leaves = tuple(p.detach().requires_grad_() for p in parameters)
        outputs = vmap(outputs_of)(leaves, x)
        if self._closed:
            loss, gradient = self._loss.value_and_gradient(outputs.detach(), *targets)
            return loss, *torch.autograd.grad(outputs, leaves, gradient)
        y, weights = targets
        loss = (vmap(self._loss.per_sample)(outputs, y) * weights).sum(1)
        return loss.detach(), *torch.autograd.grad(loss.sum(), leaves)


def _check_batchable(model: FlatModel) -> None:
    if not model.plain or model.has_local_state or model.buffer_segments:
        raise ModelError(
            "executor vmap trains float32 models whose buffers stay as they are (no BatchNorm); use loop"
        )
    for name, module in model.module.named_modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ModelError(
                f"executor vmap cannot draw the dropout masks of module {name!r} party by party; "
                "use executor loop or dropout 0"
            )


def _simplify(graph: fx.GraphModule, example: tuple[Tensor, ...]) -> None:
    """Drops operations that change nothing and binds the rest to their cheapest callable."""
    shapes = _Shapes(graph)
    shapes.run(*example)
    for node in list(graph.graph.nodes):
        source = _same_as(node, shapes.seen) or _untransposed(node) or _with_bias(node, shapes.seen)
        if source is not None:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if node.op == "call_function" and _keeps_meaning(node):
            node.target = _BINDINGS.get(node.target, node.target)
    graph.graph.set_codegen(fx.graph.CodeGen())
    graph.recompile()


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
