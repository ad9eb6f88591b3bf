"""What every codec is: flat buffer -> payload -> flat buffer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from hpc_fl.compression.payload import Payload


class Codec(Protocol):
    """A stateless encoder of flat float32 buffers (n,).

    What it loses is kept by an error-feedback wrapper, never here.

    ``linear``: sums of payloads decode to sums, so that a collective may reduce them. ``unbiased``: the
    decoded value is right in expectation. ``contraction``: the bound d in ||x - decode(encode(x))||^2 <= (1 -
    d) ||x||^2, None where there is none. A collective states which of these it needs; a wrong pairing is
    refused when the configuration is read.
    """

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> int: ...

    @property
    def linear(self) -> bool: ...

    @property
    def unbiased(self) -> bool: ...

    @property
    def contraction(self) -> float | None: ...

    def nbytes(self, n: int) -> int:
        """Exact payload bytes for ``n`` elements where the scheme fixes them, else a bound (header apart)."""
        ...

    def encode(self, x: Tensor) -> Payload:
        """The payload of ``x`` (n,); it may share memory with ``x``."""
        ...

    def decode(self, payload: Payload, out: Tensor) -> None:
        """Writes the decoded buffer to ``out`` (n,).

        Raises :class:`WireError`, with ``out`` untouched, for a payload that is not its own.
        """
        ...
