"""A module's parameters as one contiguous float32 buffer, and its gradient as another.

::

    values  [ parameter | parameter | ... | parameter | buffer | buffer ]
            '------------- trainable ----------------''-- averaged ----'

Every float32 tensor of the module *is* a slice of ``values``, so nothing is packed or unpacked in a training
loop. Tensors of another dtype (half-precision weights, integer counters) keep their own storage and are
bridged: :meth:`FlatModel.publish` writes them from ``values``, :meth:`FlatModel.collect` reads them back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Final, Literal

import torch
from torch import Tensor, nn

from hpc_fl.errors import ModelError

Rule = Literal["mean", "local"]
"""What happens to a buffer between parties: averaged with the model, or kept by each party."""

_HALF: Final = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Segment:
    """One tensor's place in the flat buffer: ``values[start:stop].view(shape)``; ``dtype`` is the module's
    own.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, flat: Tensor) -> Tensor:
        """This segment of ``flat`` (..., n) as a view of shape (..., *shape)."""
        return flat[..., self.start : self.stop].view((*flat.shape[:-1], *self.shape))


class FlatModel:
    """A module laid out in one float32 buffer; made on every rank from the same module.

    ``values`` (n,) holds the trainable parameters, then the buffers whose rule is ``mean``; ``params`` is its
    trainable part. ``grads`` (trainable,) is filled by :meth:`collect_grads`. Tied weights count once;
    parameters with ``requires_grad=False`` are left where they are and never travel.

    Buffer rules: floating-point buffers are ``mean``, integer ones ``local``, unless ``rules`` (name patterns
    as in :mod:`fnmatch`, first match wins) says otherwise. An integer buffer with rule ``mean`` is rounded to
    nearest.

    Raises :class:`ModelError` for a module without trainable parameters, one whose tensors are on several
    devices, of a dtype that float32 cannot hold (float64, complex), or for a rule that matches no buffer.
    """

    def __init__(self, module: nn.Module, rules: Mapping[str, Rule] | None = None) -> None:
        self.module = module
        parameters = {k: p for k, p in module.named_parameters() if p.requires_grad}
        buffers = dict(module.named_buffers())
        averaged, self._local = _split_buffers(buffers, rules or {})
        _check_tensors({**parameters, **buffers}, parameters)
        self.segments = _layout(parameters)
        self.trainable = self.segments[-1].stop
        self.buffer_segments = _layout(averaged, self.trainable)
        self.n = self.buffer_segments[-1].stop if self.buffer_segments else self.trainable
        self.device = next(iter(parameters.values())).device
        self.values = torch.empty(self.n, device=self.device)
        self.params = self.values[: self.trainable]
        self._grads: Tensor | None = None
        self._parameters = tuple(parameters.values())
        self._bridged = self._adopt({**parameters, **averaged})

    def _adopt(self, tensors: Mapping[str, Tensor]) -> tuple[tuple[Segment, Tensor], ...]:
        """Makes float32 tensors views of ``values``; returns those that keep their own storage."""
        bridged = []
        with torch.no_grad():
            for segment in (*self.segments, *self.buffer_segments):
                tensor, view = tensors[segment.name], segment.of(self.values)
                view.copy_(tensor)
                if tensor.dtype == torch.float32:
                    tensor.data = view
                else:
                    bridged.append((segment, tensor))
        return tuple(bridged)

    def __call__(self, x: Tensor) -> Tensor:
        """The module's output, as float32, for ``x`` cast to the dtype of the first parameter."""
        dtype = self._parameters[0].dtype
        output: Tensor = self.module(x.to(dtype) if x.is_floating_point() else x)
        return output.float()

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The module's trainable parameters, in the order of ``segments``."""
        return self._parameters

    @property
    def plain(self) -> bool:
        """Whether every tensor is a view of ``values``: :meth:`publish` and :meth:`collect` have nothing to
        do.
        """
        return not self._bridged

    @property
    def grads(self) -> Tensor:
        """The flat gradient (trainable,), allocated at first use; see :meth:`collect_grads`."""
        if self._grads is None:
            self._grads = torch.zeros(self.trainable, device=self.device)
        return self._grads

    @torch.no_grad()
    def load(self, source: Tensor) -> None:
        """Copies ``source`` (n,) float32 into the model."""
        self.values.copy_(source)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Writes the bridged tensors (half weights, integer counters) from ``values``."""
        for segment, tensor in self._bridged:
            view = segment.of(self.values)
            tensor.copy_(view if tensor.is_floating_point() else view.round())

    @torch.no_grad()
    def collect_buffers(self) -> None:
        """Reads the bridged averaged buffers back into ``values`` after local training."""
        for segment, tensor in self._bridged:
            if segment.start >= self.trainable:
                segment.of(self.values).copy_(tensor)

    @torch.no_grad()
    def collect_grads(self) -> Tensor:
        """Moves every parameter's ``.grad`` into ``grads`` (float32) and clears it; a missing gradient counts
        as zero.
        """
        for segment, parameter in zip(self.segments, self._parameters, strict=True):
            view = segment.of(self.grads)
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
                parameter.grad = None
        return self.grads

    def clear_grads(self) -> None:
        """Forgets every parameter's ``.grad`` so that the next backward pass writes instead of adding."""
        for parameter in self._parameters:
            parameter.grad = None

    def local_state(self) -> dict[str, Tensor]:
        """Copies of the buffers whose rule is ``local``: what a party keeps for itself between rounds."""
        return {name: tensor.detach().clone() for name, tensor in self._local.items()}

    @torch.no_grad()
    def load_local_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts a party's own buffers (from :meth:`local_state`) back into the module."""
        for name, tensor in self._local.items():
            tensor.copy_(state[name])

    @property
    def has_local_state(self) -> bool:
        """Whether some buffer is ``local``."""
        return bool(self._local)

    def frozen(self) -> dict[str, Tensor]:
        """The parameters that neither train nor travel."""
        return {k: p.detach() for k, p in self.module.named_parameters() if not p.requires_grad}


def _split_buffers(
    buffers: Mapping[str, Tensor], rules: Mapping[str, Rule]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in buffers):
            names = ", ".join(buffers) or "none"
            raise ModelError(f"buffer rule {pattern!r} matches no buffer of the model (buffers: {names})")
    averaged: dict[str, Tensor] = {}
    local: dict[str, Tensor] = {}
    for name, tensor in buffers.items():
        default: Rule = "mean" if tensor.is_floating_point() else "local"
        rule = next((r for pattern, r in rules.items() if fnmatchcase(name, pattern)), default)
        (averaged if rule == "mean" else local)[name] = tensor
    return averaged, local


def _check_tensors(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    if not parameters:
        raise ModelError("the model has no trainable parameter: give it at least one with requires_grad=True")
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1:
        raise ModelError(
            f"the model's tensors are on several devices ({', '.join(map(str, devices))}); move it to one"
        )
    for name, tensor in tensors.items():
        if tensor.is_complex() or tensor.dtype == torch.float64:
            raise ModelError(
                f"{name} is {tensor.dtype}: the flat buffer is float32; convert it with module.float()"
            )
    for name, tensor in parameters.items():
        if tensor.dtype != torch.float32 and tensor.dtype not in _HALF:
            raise ModelError(
                f"parameter {name} is {tensor.dtype}; float32, float16 and bfloat16 can be trained"
            )


def _layout(tensors: Mapping[str, Tensor], start: int = 0) -> tuple[Segment, ...]:
    segments = []
    for name, tensor in tensors.items():
        stop = start + prod(tensor.shape)
        segments.append(Segment(name, start, stop, tuple(tensor.shape), tensor.dtype))
        start = stop
    return tuple(segments)
