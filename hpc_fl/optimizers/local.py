"""An optimiser of torch that steps along the flat gradient of a model."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from hpc_fl.comm.transport import Transport
from hpc_fl.errors import ConfigError
from hpc_fl.flat import FlatModel


class LocalOptimizer:
    """``optimizer`` must hold ``model.parameters``, all of them and no others.

    Raises :class:`ConfigError` where it does not, and for a model of half precision, whose float32 values
    torch's optimisers do not know.
    """

    def __init__(self, model: FlatModel, optimizer: torch.optim.Optimizer, transport: Transport) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held != {id(p) for p in model.parameters}:
            raise ConfigError(
                f"{type(self).__name__}: the optimiser holds {len(held)} tensors, not the "
                f"{len(model.parameters)} parameters of the model; make it with model.parameters, after "
                "FlatModel(module)"
            )
        if not model.plain:
            raise ConfigError(
                f"{type(self).__name__}: the model has tensors of half precision or integer buffers that are "
                "averaged; convert it with module.float()"
            )
        self.model, self.optimizer, self._transport = model, optimizer, transport

    def _require_one_start(self) -> None:
        """Raises :class:`ConfigError` unless all ranks hold the same bits. Every rank must call it."""
        digest = zlib.crc32(self.model.values.cpu().numpy().tobytes())
        everyone = np.zeros(self._transport.size, np.int64)
        self._transport.allgather(np.array([digest], np.int64), everyone)
        if others := np.flatnonzero(everyone != everyone[0]).tolist():
            which = ", ".join(map(str, others[:8]))
            raise ConfigError(
                f"{type(self).__name__}: rank {which} begins with other parameters than rank 0; seed torch "
                "alike before the model is made, or broadcast rank 0's"
            )

    def zero_grad(self) -> None:
        """Forgets the module's gradients; a step does so too."""
        self.model.clear_grads()

    @torch.no_grad()
    def consensus(self) -> Tensor:
        """The mean of all ranks' models (n,), the same bits on every rank; the models stay as they are. Every
        rank must call it: ``model.load(optimizer.consensus())`` ends a training.
        """
        mean = self.model.values.clone().cpu()
        self._transport.allreduce(mean)
        return mean.div_(self._transport.size).to(self.model.device)

    def _advance(self) -> None:
        """One step along ``model.grads``."""
        for segment, parameter in zip(self.model.segments, self.model.parameters, strict=True):
            parameter.grad = segment.of(self.model.grads)
        self.optimizer.step()
        self.model.clear_grads()
