"""How a party's buffer becomes a payload: with what earlier rounds kept back, or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from hpc_fl.compression import Codec, Payload


class Encoder(Protocol):
    """Encodes one buffer of each party of this rank; :class:`hpc_fl.compression.ErrorFeedback` is one."""

    def encode(self, party_id: int, round_: int, x: Tensor) -> Payload:
        """The payload of ``x`` (n,) float32 for ``round_``; it may share memory with ``x``.

        Raises :class:`NotFiniteError`, what was kept for the party then being as before.
        """
        ...

    def state(self) -> dict[int, dict[str, Tensor]]:
        """What is kept, by party id and name."""
        ...

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """The inverse of :meth:`state`."""
        ...


class Plain:
    """The codec alone: nothing is kept."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec

    def encode(self, party_id: int, round_: int, x: Tensor) -> Payload:
        return self._codec.at(round_, party_id).encode(x)

    def state(self) -> dict[int, dict[str, Tensor]]:
        return {}

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        pass
