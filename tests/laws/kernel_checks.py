"""One kernel of one backend against the reference, on given inputs.

Each ``check_*`` takes a :class:`Subject` and NumPy inputs, runs one kernel there and in the reference, and
compares bit for bit; means of magnitudes within 1e-6. Arrays are placed inside larger ones, at any start, and
what lies around them must not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from hpc_fl.backends.reference import Reference
from hpc_fl.errors import HpcFlError

Floats = NDArray[np.float32]
Host = NDArray[Any]

REFERENCE: Final = Reference()
BEFORE: Final = 64
AFTER: Final = 37
FILL: Final = 0xA5
GREATEST: Final = np.finfo(np.float32).max


@dataclass(frozen=True)
class Subject:
    """A backend and the way to its arrays: NumPy array to its kind, and back."""

    backend: Any
    to_device: Callable[[Host], Any]
    to_host: Callable[[Any], Host]

    def place(self, x: Host, shift: int = 0) -> Placed:
        """A copy of ``x`` on the device, ``shift`` elements past an aligned start."""
        x = np.ascontiguousarray(x)
        room = np.full((BEFORE + shift + x.size + AFTER) * x.itemsize, FILL, np.uint8).view(x.dtype)
        start = BEFORE + shift
        room[start : start + x.size] = x.reshape(-1)
        whole = self.to_device(room)
        return Placed(self, whole, whole[start : start + x.size].reshape(x.shape), start)

    def room(self, size: int, dtype: str, shift: int = 0) -> Placed:
        """An output that has not been written yet."""
        return self.place(np.full(size * np.dtype(dtype).itemsize, FILL, np.uint8).view(dtype), shift)


@dataclass(frozen=True)
class Placed:
    """An array inside a larger one."""

    subject: Subject
    whole: Any
    view: Any
    start: int

    def host(self) -> Host:
        """What the array holds now; what lies around it must be as it was."""
        whole = np.asarray(self.subject.to_host(self.whole))
        size = int(np.prod(self.view.shape))
        around = np.concatenate([whole[: self.start], whole[self.start + size :]]).view(np.uint8)
        assert (around == FILL).all(), "a kernel wrote outside of its array"
        return whole[self.start : self.start + size].reshape(self.view.shape).copy()


def same_bits(found: Host, expected: Host) -> None:
    """Equal dtype, shape and bits: -0.0 is not 0.0."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    raw = f"u{found.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(raw), expected.view(raw), strict=True)


def same_error(
    subject: Subject, expected: Callable[[], object], call: Callable[[], object]
) -> tuple[Any, Any] | None:
    """Both results; where the reference raises, the subject must, with the same text: then None."""
    wanted = error = None
    try:
        with np.errstate(all="ignore"):
            wanted = expected()
    except HpcFlError as raised:
        error = raised
    if error is not None:
        with pytest.raises(type(error)) as caught:  # noqa: PT012 - a GPU raises at the check
            call()
            subject.backend.check()
        assert str(caught.value) == str(error)
        subject.backend.check()
        return None
    found = call()
    subject.backend.check()
    return wanted, found


def check_add_topk(
    subject: Subject,
    g: Floats,
    e: Floats | None,
    k: int,
    *,
    keep: str = "apart",
    hint: float = 0.0,
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """``keep``: c is an array ``apart``, the memory of ``g`` (``inplace``) or None (``none``)."""
    c = None if keep == "none" else np.empty_like(g)
    indices, values = np.empty(k, np.int32), np.empty(k, np.float32)
    dg, de, dc = _update(subject, g, e, keep, shifts)
    di, dv = subject.room(k, "int32", shifts[1]), subject.room(k, "float32", shifts[2])
    results = same_error(
        subject,
        lambda: REFERENCE.add_topk(g, e, c, indices, values),
        lambda: subject.backend.add_topk(dg.view, _view(de), _view(dc), di.view, dv.view, hint),
    )
    _kept_as_it_was(de, e)
    if results is None:
        return
    same_bits(di.host(), indices)
    same_bits(dv.host(), values)
    if c is not None and dc is not None:
        same_bits(dc.host(), c)
    assert float(results[1]) == results[0]


def check_add_threshold(
    subject: Subject,
    g: Floats,
    e: Floats | None,
    tau: float,
    *,
    keep: str = "apart",
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> None:
    c = None if keep == "none" else np.empty_like(g)
    indices, values = np.empty(g.size, np.int32), np.empty(g.size, np.float32)
    dg, de, dc = _update(subject, g, e, keep, shifts)
    di, dv = subject.room(g.size, "int32", shifts[1]), subject.room(g.size, "float32", shifts[2])
    results = same_error(
        subject,
        lambda: REFERENCE.add_threshold(g, e, c, tau, indices, values),
        lambda: subject.backend.add_threshold(dg.view, _view(de), _view(dc), tau, di.view, dv.view),
    )
    _kept_as_it_was(de, e)
    if results is None:
        return
    k, found = results
    assert found == k
    same_bits(di.host()[:k], indices[:k])
    same_bits(dv.host()[:k], values[:k])
    if c is not None and dc is not None:
        same_bits(dc.host(), c)


def check_add_sign(
    subject: Subject,
    g: Floats,
    e: Floats | None,
    bounds: NDArray[np.int64],
    *,
    e_scales: Floats | None = None,
    keep: str = "apart",
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Without ``e_scales``, those of ``e``'s own segments are taken."""
    segments = len(bounds) - 1
    if e is not None and e_scales is None:
        e_scales = np.random.default_rng(segments).random(segments).astype(np.float32)
    c = None if keep == "none" else np.empty_like(g)
    bits, scales = np.empty(-(-g.size // 8), np.uint8), np.empty(segments, np.float32)
    dg, de, dc = _update(subject, g, e, keep, shifts)
    ds = None if e_scales is None else subject.place(e_scales, shifts[1])
    db, dbits = subject.place(bounds), subject.room(bits.size, "uint8", shifts[1])
    dscales = subject.room(segments, "float32", shifts[2])
    results = same_error(
        subject,
        lambda: REFERENCE.add_sign(g, e, e_scales, c, bounds, bits, scales),
        lambda: subject.backend.add_sign(
            dg.view, _view(de), _view(ds), _view(dc), db.view, dbits.view, dscales.view
        ),
    )
    _kept_as_it_was(de, e)
    if results is None:
        return
    same_bits(dbits.host(), bits)
    np.testing.assert_allclose(dscales.host(), scales, rtol=1e-6, atol=2e-45)
    assert (dscales.host()[np.diff(bounds) == 0] == 0).all()
    if c is not None and dc is not None:
        same_bits(dc.host(), c)


def check_sign_residual(
    subject: Subject, c: Floats, bounds: NDArray[np.int64], *, inplace: bool, shift: int
) -> None:
    scales = np.random.default_rng(len(bounds)).random(len(bounds) - 1).astype(np.float32)
    out = np.empty_like(c)
    REFERENCE.sign_residual(c, bounds, scales, out)
    dc = subject.place(c, shift)
    dout = dc if inplace else subject.room(c.size, "float32")
    subject.backend.sign_residual(dc.view, subject.place(bounds).view, subject.place(scales).view, dout.view)
    same_bits(dout.host(), out)


def check_add_signs(
    subject: Subject, bits: Host, bounds: NDArray[np.int64], weight: float, out: Floats, *, shift: int = 0
) -> None:
    scales = np.random.default_rng(len(bounds)).random(len(bounds) - 1).astype(np.float32)
    dout = subject.place(out, shift)
    subject.backend.add_signs(
        subject.place(bits, shift).view,
        subject.place(bounds).view,
        subject.place(scales).view,
        weight,
        dout.view,
    )
    expected = out.copy()
    REFERENCE.add_signs(bits, bounds, scales, weight, expected)
    same_bits(dout.host(), expected)


def check_majority(subject: Subject, rows: Host, *, shift: int = 0) -> None:
    out = np.empty(rows.shape[1], np.uint8)
    REFERENCE.majority(rows, out)
    dout = subject.room(out.size, "uint8", shift)
    subject.backend.majority(subject.place(rows, shift).view, dout.view)
    same_bits(dout.host(), out)


def check_scatter_add(
    subject: Subject, indices: Host, values: Floats, weight: float, out: Floats, *, shift: int = 0
) -> None:
    dout = subject.place(out, shift)
    di, dv = subject.place(indices, shift), subject.place(values)
    expected = out.copy()
    same_error(
        subject,
        lambda: REFERENCE.scatter_add(indices, values, weight, expected),
        lambda: subject.backend.scatter_add(di.view, dv.view, weight, dout.view),
    )
    same_bits(dout.host(), expected)


def check_merge_add(
    subject: Subject, a: tuple[Host, Floats], b: tuple[Host, Floats], *, shift: int = 0
) -> None:
    room = a[0].size + b[0].size
    indices, values = np.empty(room, np.int32), np.empty(room, np.float32)
    k = REFERENCE.merge_add(*a, *b, indices, values)
    placed = [subject.place(x, shift).view for x in (*a, *b)]
    di, dv = subject.room(room, "int32", shift), subject.room(room, "float32")
    assert subject.backend.merge_add(*placed, di.view, dv.view) == k
    subject.backend.check()
    same_bits(di.host()[:k], indices[:k])
    same_bits(dv.host()[:k], values[:k])


def check_quantize(
    subject: Subject,
    g: Floats,
    e: Floats | None,
    width: int,
    block: int,
    *,
    key: int = 0x0123456789ABCDEF,
    weight: float = 0.75,
    keep: str = "apart",
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """Both ways: codes, scales and what is kept, then their decoding onto a buffer."""
    n = g.size
    c = None if keep == "none" else np.empty_like(g)
    codes, scales = np.empty(-(-n // 8) * width, np.uint8), np.empty(-(-n // block), np.float32)
    dg, de, dc = _update(subject, g, e, keep, shifts)
    dcodes = subject.room(codes.size, "uint8", shifts[1])
    dscales = subject.room(scales.size, "float32", shifts[2])
    results = same_error(
        subject,
        lambda: REFERENCE.add_quantize(g, e, c, width, block, key, codes, scales),
        lambda: subject.backend.add_quantize(
            dg.view, _view(de), _view(dc), width, block, key, dcodes.view, dscales.view
        ),
    )
    _kept_as_it_was(de, e)
    if results is None:
        return
    same_bits(dscales.host(), scales)
    same_bits(dcodes.host(), codes)
    if c is not None and dc is not None:
        same_bits(dc.host(), c)
    check_add_dequantized(subject, codes, scales, width, block, weight, np.ones_like(g), shifts=shifts)


def check_add_dequantized(
    subject: Subject,
    codes: Host,
    scales: Floats,
    width: int,
    block: int,
    weight: float,
    out: Floats,
    *,
    shifts: tuple[int, int, int] = (0, 0, 0),
) -> None:
    dout = subject.place(out, shifts[0])
    subject.backend.add_dequantized(
        subject.place(codes, shifts[1]).view, subject.place(scales).view, width, block, weight, dout.view
    )
    expected = out.copy()
    REFERENCE.add_dequantized(codes, scales, width, block, weight, expected)
    same_bits(dout.host(), expected)


def check_gaps(subject: Subject, indices: Host, n: int, *, shift: int = 0) -> None:
    """Encoded as the reference does, and decoded to what it was."""
    out = np.empty(5 * indices.size, np.uint8)
    used = REFERENCE.encode_gaps(indices, out)
    di, dout = subject.place(indices, shift), subject.room(out.size, "uint8", shift)
    assert subject.backend.encode_gaps(di.view, dout.view) == used
    same_bits(dout.host()[:used], out[:used])
    check_decode_gaps(subject, out[:used], n, indices.size, shift=shift)


def check_decode_gaps(subject: Subject, code: Host, n: int, k: int, *, shift: int = 0) -> None:
    """Any bytes at all: the same indices, or the same error."""
    indices = np.empty(k, np.int32)
    dcode, di = subject.place(code, shift), subject.room(k, "int32", shift)
    results = same_error(
        subject,
        lambda: REFERENCE.decode_gaps(code, n, indices),
        lambda: subject.backend.decode_gaps(dcode.view, n, di.view),
    )
    found = di.host()
    if results:
        same_bits(found, indices)


def check_mask(subject: Subject, indices: Host, n: int, *, shift: int = 0) -> None:
    mask = np.empty(-(-n // 8), np.uint8)
    REFERENCE.encode_mask(indices, mask)
    di, dmask = subject.place(indices, shift), subject.room(mask.size, "uint8", shift)
    subject.backend.encode_mask(di.view, dmask.view)
    same_bits(dmask.host(), mask)
    check_decode_mask(subject, mask, n, indices.size, shift=shift)


def check_decode_mask(subject: Subject, mask: Host, n: int, k: int, *, shift: int = 0) -> None:
    indices = np.empty(k, np.int32)
    dmask, di = subject.place(mask, shift), subject.room(k, "int32", shift)
    results = same_error(
        subject,
        lambda: REFERENCE.decode_mask(mask, n, indices),
        lambda: subject.backend.decode_mask(dmask.view, n, di.view),
    )
    found = di.host()
    if results:
        same_bits(found, indices)


def _update(
    subject: Subject, g: Floats, e: Floats | None, keep: str, shifts: tuple[int, int, int]
) -> tuple[Placed, Placed | None, Placed | None]:
    dg = subject.place(g, shifts[0])
    de = None if e is None else subject.place(e, shifts[1])
    if keep == "inplace":
        return dg, de, dg
    return dg, de, None if keep == "none" else subject.room(g.size, "float32", shifts[2])


def _view(placed: Placed | None) -> Any:
    return None if placed is None else placed.view


def _kept_as_it_was(de: Placed | None, e: Floats | None) -> None:
    if de is not None and e is not None:
        same_bits(de.host(), e)
