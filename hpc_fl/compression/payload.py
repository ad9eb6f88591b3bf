"""What travels: typed arrays behind a binary header that says all that decoding needs. Never a pickle.

::

    header  magic 4s | version u8 | codec u8 | parts u16 | meta u16 | n u64 | body bytes u64 | crc32 u32
    meta    u64 each: counts, lengths and widths; what they mean is the codec's
    table   for each part: dtype code u8 | elements u64
    zeros   up to the next multiple of 8 bytes, so that parts of 4 bytes an element lie aligned
    body    the parts one after another, no padding

All integers are little-endian; the checksum covers all but its own field, which counts as zero.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hpc_fl.errors import WireError

_HEADER: Final = struct.Struct("<4sBBHHQQI")
_PART: Final = struct.Struct("<BQ")
_MAGIC: Final = b"HFLP"
_VERSION: Final = 1
_COUNT: Final = 2**16
_CODES: Final[dict[str, int]] = {"<f4": 1, "<f2": 2, "|u1": 3, "<i4": 4, "<u2": 5, "<u4": 6, "<i8": 7}
_DTYPES: Final = {code: np.dtype(name) for name, code in _CODES.items()}


@dataclass(frozen=True, eq=False)
class Payload:
    """An encoded buffer: ``codec`` id (0 to 255), ``n`` elements of the flat buffer it stands for, one-
    dimensional ``parts`` (NumPy arrays, or CuPy's where the buffer was on a GPU), and ``meta``, at most 65535
    integers of 64 bits. Parts of wide elements come first.
    """

    codec: int
    n: int
    parts: tuple[Any, ...]
    meta: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the body: what the byte formulas count (header and meta apart)."""
        return sum(part.nbytes for part in self.parts)

    def tobytes(self) -> bytes:
        """The wire format. Raises :class:`WireError` for what the format does not have."""
        parts = [_host(part) for part in self.parts]
        if not (0 <= self.codec < 256 and 0 <= self.n < 2**64 and max(len(parts), len(self.meta)) < _COUNT):
            raise WireError(
                f"no payload has codec {self.codec}, n {self.n}, {len(parts)} parts, {len(self.meta)} meta"
            )
        table = _packed(self.meta) + b"".join(_PART.pack(_code_of(part), part.size) for part in parts)
        table += bytes(_gap(_HEADER.size + len(table)))
        bodies = [part.view(np.uint8).data for part in parts]
        size = sum(body.nbytes for body in bodies)
        fields = (_MAGIC, _VERSION, self.codec, len(parts), len(self.meta), self.n, size)
        checksum = zlib.crc32(table, zlib.crc32(_HEADER.pack(*fields, 0)))
        for body in bodies:
            checksum = zlib.crc32(body, checksum)
        return b"".join((_HEADER.pack(*fields, checksum), table, *bodies))

    @classmethod
    def at_head(cls, data: memoryview) -> Payload:
        """:meth:`frombytes` of the payload at the beginning of a buffer that has room for a longer one."""
        if len(data) < _HEADER.size:
            return cls.frombytes(data)  # which refuses it
        _, _, _, count, metas, _, size, _ = _HEADER.unpack_from(data)
        stop = _HEADER.size + 8 * metas + count * _PART.size
        return cls.frombytes(data[: stop + _gap(stop) + size])

    @classmethod
    def frombytes(cls, data: bytes | bytearray | memoryview) -> Payload:
        """The inverse of :meth:`tobytes`; the parts are read-only NumPy views of ``data``.

        Raises :class:`WireError` for anything that :meth:`tobytes` did not make: truncated, too long,
        altered, foreign.
        """
        view = memoryview(data).toreadonly().cast("B")
        if len(view) < _HEADER.size:
            raise WireError(f"payload of {len(view)} bytes is shorter than its header ({_HEADER.size} bytes)")
        magic, version, codec, count, metas, n, size, checksum = _HEADER.unpack_from(view)
        if magic != _MAGIC or version != _VERSION:
            raise WireError(f"not a payload of format {_VERSION}: starts with {magic!r}, version {version}")
        table = _HEADER.size + 8 * metas
        stop = table + count * _PART.size
        start = stop + _gap(stop)
        if len(view) != start + size:
            raise WireError(
                f"payload has {len(view)} bytes, its header promises {start + size}: truncated or too long"
            )
        unsigned = _HEADER.pack(magic, version, codec, count, metas, n, size, 0)
        if zlib.crc32(view[_HEADER.size :], zlib.crc32(unsigned)) != checksum or any(view[stop:start]):
            raise WireError("payload checksum does not match: altered on the way")
        meta = struct.unpack_from(f"<{metas}Q", view, _HEADER.size)
        return cls(codec, n, _parts(view, table, count, start), meta)


def _host(part: Any) -> NDArray[Any]:
    """A part in the host's memory, contiguous."""
    host = part if isinstance(part, np.ndarray) else part.get()
    if host.ndim != 1:
        raise WireError(f"a payload's parts have one dimension; one of shape {host.shape} given")
    return np.ascontiguousarray(host)


def _packed(meta: tuple[int, ...]) -> bytes:
    try:
        return struct.pack(f"<{len(meta)}Q", *meta)
    except struct.error:
        raise WireError(f"a payload's meta are integers of 64 bits; given: {meta}") from None


def _gap(size: int) -> int:
    return -size % 8


def _code_of(part: NDArray[Any]) -> int:
    try:
        return _CODES[part.dtype.str]
    except KeyError:
        raise WireError(f"a payload cannot hold {part.dtype}; allowed: {', '.join(_CODES)}") from None


def _parts(view: memoryview, table: int, count: int, offset: int) -> tuple[NDArray[Any], ...]:
    parts = []
    for index in range(count):
        code, size = _PART.unpack_from(view, table + index * _PART.size)
        dtype = _DTYPES.get(code)
        if dtype is None or size * dtype.itemsize > len(view) - offset:
            raise WireError(
                f"payload part {index} (dtype code {code}, {size} elements) does not fit its body"
            )
        parts.append(np.frombuffer(view, dtype, size, offset))
        offset += size * dtype.itemsize
    if offset != len(view):
        raise WireError(f"payload body has {len(view) - offset} bytes that belong to no part")
    return tuple(parts)
