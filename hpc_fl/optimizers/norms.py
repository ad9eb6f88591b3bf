"""Euclidean norms with the same bits whatever the number of threads: ranks may differ in it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_ROW: Final = 4096
"""Elements that one thread adds up. Few enough: torch shares out a single sum from 32,768 elements on."""


def norm(x: Tensor) -> Tensor:
    """The norm of ``x`` (n,) float32, as float64 ()."""
    whole = x.numel() // _ROW * _ROW
    parts = [torch.linalg.vector_norm(x[whole:]).reshape(1)]
    if whole:
        # Rows are shared out among threads, a row is not.
        parts.append(torch.linalg.vector_norm(x[:whole].view(-1, _ROW), dim=1))
    joined = torch.cat(parts)
    return norm(joined).double() if joined.numel() > _ROW else torch.linalg.vector_norm(joined.double())
