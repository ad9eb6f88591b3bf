"""A step of many parties as one traced graph of batched operations.

Training a small model is bounded by the interpreter, not by arithmetic: a step of logistic regression is 0.1
ms of products and 0.5 ms of Python. So the step of B parties is traced once into a flat list of batched
operations (``torch.func.vmap`` for the forward pass, autograd for the backward pass, ``make_fx`` to record
both), cleaned of operations that do nothing, and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.losses import Loss
from hpc_fl.training.rewrite import Descent, replayable, simplify


class PartySteps:
    """Local steps of B parties, each at its own parameters and on its own batch.

    Parameters are given as one tensor (B, *shape) for each of the model's segments. What a step keeps of its
    losses, :meth:`losses` makes values of: for many steps at once.

    Traced once for each (B, batch shape): callers keep the number of different shapes small. Raises
    :class:`ModelError` for a model that cannot be batched: buffers changed in the forward pass (BatchNorm),
    randomness (dropout), half precision, control flow on data.
    """

    def __init__(self, model: FlatModel, loss: Loss) -> None:
        self._model = model
        self._loss = loss
        self._gradients: dict[tuple[object, ...], Callable[..., Any]] = {}
        self._descents: dict[tuple[object, ...], Descent] = {}
        self._closed = True
        _check_batchable(model)

    def targets(self, y: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        """``y`` (..., b, *target) and ``weights`` (..., b) as the loss wants them, leading dimensions kept.

        A sample's weight is its share in its party's loss: 1/b in a full batch, 0 for filler.
        """
        prepared = self._loss.prepare(y, weights)
        self._closed = prepared is not None
        return (y, weights) if prepared is None else prepared

    def gradients(
        self, parameters: Sequence[Tensor], x: Tensor, targets: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """What is kept of the losses, and the gradient of each parameter (B, *shape).

        ``x`` (B, b, ...); ``targets``: this step's, from :meth:`targets`.
        """
        signature = (x.shape, targets[0].shape, parameters[0].stride(0))
        gradients = self._gradients.get(signature)
        if gradients is None:
            graph = self._trace(parameters, x, targets)
            gradients = self._gradients[signature] = replayable(graph)
        kept, *grads = gradients(x, *targets, *parameters)
        return kept, grads

    def descent(
        self, parameters: Sequence[Tensor], x: Tensor, targets: Sequence[Tensor], lr: float
    ) -> Callable[..., Tensor]:
        """A step of plain SGD for batches like this one: (x, *targets) -> what is kept of the losses.

        It changes ``parameters`` in place by -``lr`` times their gradients: contiguous ones in the pass that
        makes the gradient.
        """
        signature = (x.shape, targets[0].shape)
        descent = self._descents.get(signature)
        if descent is None:
            graph = self._trace(parameters, x, targets)
            descent = self._descents[signature] = Descent(graph, parameters)
        return descent.bind(parameters, lr)

    def losses(self, kept: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The sum over S steps of each party's loss, (B,). ``targets``: theirs, (S, B, b, ...) each."""
        together = torch.stack(list(kept))
        return self._loss.value(together, *targets) if self._closed else together.sum(0)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _trace(self, parameters: Sequence[Tensor], x: Tensor, targets: Sequence[Tensor]) -> fx.GraphModule:
        """(x, *targets, *parameters) -> (kept, *gradients), simplified."""
        # Where the caller is in inference mode, autograd needs tensors that are not of it.
        inputs = tuple(t.clone() if t.is_inference() else t for t in (x, *targets, *parameters))
        try:
            graph = make_fx(self._step)(*inputs)
        except (RuntimeError, NotImplementedError, torch.fx.proxy.TraceError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the model cannot train many parties at once ({reason}); use training.executor: loop"
            ) from error
        simplify(graph, inputs)
        return graph

    def _step(self, x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        names = [segment.name for segment in self._model.segments]
        targets, parameters = rest[: -len(names)], rest[-len(names) :]

        def outputs_of(one: tuple[Tensor, ...], samples: Tensor) -> Any:
            return functional_call(self._model.module, dict(zip(names, one, strict=True)), (samples,))

        leaves = tuple(p.detach().requires_grad_() for p in parameters)
        outputs = vmap(outputs_of)(leaves, x)
        if self._closed:
            kept, gradient = self._loss.gradient(outputs.detach(), *targets)
            return kept, *torch.autograd.grad(outputs, leaves, gradient)
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
