"""The codec that changes nothing: float32 as it is."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hpc_fl.compression.payload import Payload
from hpc_fl.errors import WireError


class Identity:
    """Payload = the buffer, 4n bytes, without a copy of a CPU buffer."""

    name: ClassVar[str] = "identity"
    id: ClassVar[int] = 0
    linear: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    contraction: ClassVar[float | None] = 1.0

    def nbytes(self, n: int) -> int:
        return 4 * n

    def encode(self, x: Tensor) -> Payload:
        return Payload(self.id, x.numel(), (x.detach().cpu().numpy().reshape(-1),))

    def decode(self, payload: Payload, out: Tensor) -> None:
        parts = payload.parts
        fits = len(parts) == 1 and parts[0].dtype == np.float32 and parts[0].size == payload.n == out.numel()
        if payload.codec != self.id or not fits:
            raise WireError(
                f"payload of codec {payload.codec} with n = {payload.n} is not {out.numel()} plain float32"
            )
        out.copy_(torch.from_numpy(parts[0].copy()).view_as(out))
