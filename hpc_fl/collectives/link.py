"""The network as the cost formulas know it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from hpc_fl.errors import CodecError

LATENCY: Final = 50e-6
"""Seconds from one host's process to another's over Ethernet and TCP."""
BANDWIDTH: Final = 125e6
"""Bytes per second at 1 Gbit/s: the slow network that compression is for."""


@dataclass(frozen=True)
class Link:
    """A rank's way to the others: seconds for a message of no bytes, and bytes per second, each way.

    Raises :class:`CodecError` for a latency below 0 or a bandwidth that is not above 0.
    """

    latency: float = LATENCY
    bandwidth: float = BANDWIDTH

    def __post_init__(self) -> None:
        if not (0 <= self.latency < math.inf and self.bandwidth > 0):
            raise CodecError(f"link: latency >= 0 s and bandwidth > 0 bytes/s expected; given: {self}")

    def seconds(self, messages: float, nbytes: float) -> float:
        """How long a rank sends ``messages`` of ``nbytes`` in all."""
        return messages * self.latency + nbytes / self.bandwidth
