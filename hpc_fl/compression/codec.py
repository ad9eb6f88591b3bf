"""What every codec is: flat buffer -> payload -> flat buffer."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from hpc_fl.compression.payload import Payload

Buffer = Any
"""A flat float32 buffer (n,), contiguous: a torch tensor on the CPU or a GPU, a NumPy or a CuPy array."""

Kept = dict[str, Tensor]
"""What error feedback keeps back for one party between its rounds, one-dimensional float32: ``residual`` (n,)
and what else the codec needs to read it (scales) or to be quick (a threshold). Goes into checkpoints as it
is; only the codec that made it can read it.
"""


class Codec(Protocol):
    """An encoder of flat float32 buffers (n,). Stateless: what one party keeps back is given and returned.

    ``linear``: sums of payloads decode to sums, so that a collective may reduce them. ``unbiased``: the
    decoded value of :meth:`encode` is right in expectation. ``selects``: a payload stands for some elements
    and leaves the others at 0. A collective states which of these it needs; a wrong pairing is refused when
    the configuration is read.

    Everywhere: :class:`CodecError` for a buffer of another dtype, shape or device, :class:`NotFiniteError`
    for one with a NaN or an infinity, :class:`WireError` for a payload that this codec did not make, each
    with the outputs untouched.
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
    def selects(self) -> bool: ...

    def contraction(self, n: int) -> float | None:
        """The bound d in E ||x - decode(encode(x))||^2 <= (1 - d) ||x||^2; None where there is none."""
        ...

    def nbytes(self, n: int) -> int:
        """Exact payload bytes for ``n`` elements where the scheme fixes them, else a bound (header apart)."""
        ...

    def at(self, round_: int, party_id: int) -> Codec:
        """This codec for one party's payload of one round: schedules and random streams depend on them."""
        ...

    def encode(self, x: Buffer) -> Payload:
        """The payload of ``x`` (n,); it may share memory with ``x``."""
        ...

    def encode_keeping(self, x: Buffer, kept: Kept | None, spare: Tensor) -> tuple[Payload, Kept]:
        """The payload of ``x`` plus what was kept back, and what is to be kept back next.

        ``kept``: what this returned for the party's last payload, None at first; it is not changed, so that
        it still holds after an error. ``spare`` (n,): memory for the new residual, which may be that of
        ``x`` and never that of ``kept``; the payload shares none with it.
        """
        ...

    def decode(self, payload: Payload, out: Buffer) -> None:
        """Writes the decoded buffer to ``out`` (n,)."""
        ...

    def accumulate(self, payload: Payload, weight: float, out: Buffer) -> None:
        """out += weight * the decoded buffer, in one pass over what the payload holds."""
        ...
