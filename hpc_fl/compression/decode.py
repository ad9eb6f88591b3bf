"""Payloads decoded without the codec that made them: they say all that it takes."""

from __future__ import annotations

from typing import Final

from hpc_fl.backends import Array
from hpc_fl.compression.base import Base
from hpc_fl.compression.chain import Chain
from hpc_fl.compression.codec import Buffer
from hpc_fl.compression.half import BF16, FP16
from hpc_fl.compression.identity import Identity
from hpc_fl.compression.lowrank import LowRank
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.qsgd import QSGD
from hpc_fl.compression.randomk import RandomK
from hpc_fl.compression.reading import Reader, Reading, accumulate_with, decode_with
from hpc_fl.compression.signsgd import SignSGD
from hpc_fl.compression.ternary import Ternary
from hpc_fl.compression.threshold import Threshold
from hpc_fl.compression.topk import TopK
from hpc_fl.errors import WireError

CODECS: Final[tuple[type[Base], ...]] = (
    Identity,
    FP16,
    BF16,
    TopK,
    RandomK,
    Threshold,
    OneBit,
    SignSGD,
    QSGD,
    Ternary,
    LowRank,
    Chain,
)
_READERS: Final[dict[int, Reader]] = {codec.id: codec.read for codec in CODECS}


def decode(payload: Payload, out: Buffer) -> None:
    """Writes what ``payload`` stands for to ``out`` (n,) float32, on whatever device it is.

    Raises :class:`WireError` for a payload that no codec here made, with ``out`` untouched;
    :class:`CodecError` for an ``out`` that is no flat float32 buffer.
    """
    decode_with(read, payload, out)


def accumulate(payload: Payload, weight: float, out: Buffer) -> None:
    """out += weight * what ``payload`` stands for; errors as in :func:`decode`."""
    accumulate_with(read, payload, weight, out)


def read(payload: Payload, like: Array) -> Reading:
    """A :data:`hpc_fl.compression.reading.Reader` for any payload."""
    reader = _READERS.get(payload.codec)
    if reader is None:
        raise WireError(f"payload of codec {payload.codec}; known are {sorted(_READERS)}")
    return reader(payload, like)
