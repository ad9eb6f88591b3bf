"""What one rank tells all others in a round in which payloads travel.

::

    head     magic 4s | version u16 | stop u16 | buffers u32 | round u64 | parties u32 | absent u32 | crc u32
    table    for each party: id i64 | weight f32 | loss f32 | bytes of each buffer's payload u64
    names    for each absent party (left out): id i64
    payloads in the order of the table, each with its own checksum and zeros up to a multiple of 8 bytes

All integers are little-endian; the head's checksum covers head (its own field as zero), table and names.
Payloads begin at multiples of 8 bytes, as their parts are to lie aligned.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.compression import Payload
from hpc_fl.errors import WireError

_HEAD: Final = struct.Struct("<4sHHIQIII")
_MAGIC: Final = b"HFLX"
_VERSION: Final = 1
_ALIGNMENT: Final = 8


@dataclass(frozen=True)
class Contribution:
    """One party's part of the mean: a payload for each travelling buffer."""

    party_id: int
    weight: float
    loss: float
    payloads: tuple[Payload, ...]


@dataclass
class Outgoing:
    """The message of this rank, put together party by party; payloads are copied when they are added."""

    round_: int
    buffers: int
    payload_bytes: int = 0
    left_out: list[int] = field(default_factory=list)
    _rows: list[bytes] = field(default_factory=list)
    _body: bytearray = field(default_factory=bytearray)

    def add(self, contribution: Contribution) -> None:
        """Appends a party. Raises :class:`WireError` for a payload that the wire format cannot hold."""
        encoded = [payload.tobytes() for payload in contribution.payloads]
        numbers = contribution.party_id, contribution.weight, contribution.loss
        self._rows.append(_row(self.buffers).pack(*numbers, *map(len, encoded)))
        for data in encoded:
            self._body += data
            self._body += bytes(_aligned(len(data)) - len(data))
        self.payload_bytes += sum(payload.nbytes for payload in contribution.payloads)

    def pack(self, stop: bool) -> bytes:
        """The message; ``stop``: whether this rank asks all to stop."""
        table = b"".join(self._rows) + struct.pack(f"<{len(self.left_out)}q", *self.left_out)
        counts = self.round_, len(self._rows), len(self.left_out)
        fields = (_MAGIC, _VERSION, stop, self.buffers, *counts)
        checksum = zlib.crc32(table, zlib.crc32(_HEAD.pack(*fields, 0)))
        return b"".join((_HEAD.pack(*fields, checksum), table, self._body))


@dataclass(frozen=True)
class Incoming:
    """A message as it arrived; the payloads are views of its memory."""

    stop: bool
    contributions: Sequence[Contribution]
    left_out: Sequence[int]

    @classmethod
    def unpack(cls, data: NDArray[np.uint8], round_: int, buffers: int) -> Incoming:
        """The inverse of :meth:`Outgoing.pack`.

        Raises :class:`WireError` for anything that it did not make, or made for another round or for another
        number of buffers; a payload that cannot be read is named with its party.
        """
        view = data.data.toreadonly()
        if len(view) < _HEAD.size:
            raise WireError(f"message of {len(view)} bytes is shorter than its head ({_HEAD.size} bytes)")
        *fields, checksum = _HEAD.unpack_from(view)
        magic, version, stop, its_buffers, its_round, parties, absent = fields
        if magic != _MAGIC or version != _VERSION:
            raise WireError(f"not a message of format {_VERSION}: starts with {magic!r}, version {version}")
        if (its_round, its_buffers) != (round_, buffers):
            raise WireError(
                f"message of round {its_round} with {its_buffers} buffers, "
                f"expected round {round_} with {buffers}"
            )
        names = _HEAD.size + parties * _row(buffers).size
        body = names + 8 * absent
        if body > len(view):
            raise WireError(f"message has {len(view)} bytes, its head and table need {body}: truncated")
        if zlib.crc32(view[_HEAD.size : body], zlib.crc32(_HEAD.pack(*fields, 0))) != checksum:
            raise WireError("message checksum does not match: altered on the way")
        rows = _row(buffers).iter_unpack(view[_HEAD.size : names])
        left_out = struct.unpack(f"<{absent}q", view[names:body])
        return cls(bool(stop), _contributions(rows, view[body:]), left_out)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _row(buffers: int) -> struct.Struct:
    return struct.Struct(f"<qff{buffers}Q")


def _contributions(rows: Iterable[tuple[Any, ...]], body: memoryview) -> tuple[Contribution, ...]:
    found = []
    for party_id, weight, loss, *sizes in rows:
        if not (math.isfinite(weight) and weight >= 0 and math.isfinite(loss)):
            raise WireError(f"party {party_id}: weight {weight} and loss {loss} cannot enter a mean")
        payloads = []
        for size in sizes:
            try:
                if body[size : _aligned(size)] != bytes(_aligned(size) - size):
                    raise WireError("zeros up to a multiple of 8 bytes expected behind the payload")
                payloads.append(Payload.frombytes(body[:size]))
            except WireError as error:
                raise WireError(f"party {party_id}: {error}") from error
            body = body[_aligned(size) :]
        found.append(Contribution(party_id, weight, loss, tuple(payloads)))
    if len(body):
        raise WireError(f"message has {len(body)} bytes that belong to no party")
    return tuple(found)
