"""Which updates hold neither NaN nor infinity, in one pass over them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def all_finite(losses: Tensor, buffers: Mapping[str, Tensor]) -> bool:
    """Whether all is surely finite: a finite sum proves finite terms; large finite ones may overflow it."""
    total = losses.sum()
    for rows in buffers.values():
        total = total + rows.sum()
    return math.isfinite(total.item())


def finite_rows(rows: Tensor) -> Tensor:
    """Which rows of (B, n) hold neither NaN nor infinity; (B,) bool.

    A finite sum proves finite terms. An infinite one may be the overflow of large but finite terms: only then
    are they looked at.
    """
    finite = rows.sum(1).isfinite()
    for row in (~finite).nonzero().flatten().tolist():
        finite[row] = rows[row].isfinite().all()
    return finite
