"""Payloads decoded without the codec that made them: they say all that it takes."""

from __future__ import annotations

from typing import Final

from hpc_fl.compression.codec import Buffer
from hpc_fl.compression.identity import Identity
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.reading import Reader, accumulate_with, decode_with
from hpc_fl.compression.topk import TopK
from hpc_fl.errors import WireError

READERS: Final[dict[int, Reader]] = {codec.id: codec.read for codec in (Identity, TopK, OneBit)}


def decode(payload: Payload, out: Buffer) -> None:
    """Writes what ``payload`` stands for to ``out`` (n,) float32, on whatever device it is.

    Raises :class:`WireError` for a payload that no codec here made, with ``out`` untouched;
    :class:`CodecError` for an ``out`` that is no flat float32 buffer.
    """
    decode_with(_reader(payload), payload, out)


def accumulate(payload: Payload, weight: float, out: Buffer) -> None:
    """out += weight * what ``payload`` stands for; errors as in :func:`decode`."""
    accumulate_with(_reader(payload), payload, weight, out)


def _reader(payload: Payload) -> Reader:
    try:
        return READERS[payload.codec]
    except KeyError:
        raise WireError(f"payload of codec {payload.codec}; known are {sorted(READERS)}") from None
