"""Payloads of a hostile peer, with a good checksum: refused with the output untouched, or a finite buffer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.codec_laws import CASES, Floats, buffers
from numpy.typing import NDArray

from hpc_fl.compression import Payload, accumulate, decode
from hpc_fl.compression.decode import CODECS
from hpc_fl.compression.indices import most_bytes, read_indices, write_indices
from hpc_fl.errors import WireError

N = 40
DTYPES = ("float32", "float16", "uint8", "int32", "uint16", "uint32", "int64")
NUMBERS = st.one_of(
    st.integers(0, 50), st.sampled_from([2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64 - 1])
)
Change = Callable[[Payload, st.DataObject], Payload]


def with_other_meta(payload: Payload, data: st.DataObject) -> Payload:
    meta = list(payload.meta)
    if meta:
        meta[data.draw(st.integers(0, len(meta) - 1))] = data.draw(NUMBERS)
    return Payload(payload.codec, payload.n, payload.parts, tuple(meta))


def with_meta_of_another_length(payload: Payload, data: st.DataObject) -> Payload:
    meta = (
        *payload.meta[: data.draw(st.integers(0, len(payload.meta)))],
        *data.draw(st.lists(NUMBERS, max_size=3)),
    )
    return Payload(payload.codec, payload.n, payload.parts, meta)


def with_other_bytes(payload: Payload, data: st.DataObject) -> Payload:
    parts = [part.copy() for part in payload.parts]
    part = data.draw(st.sampled_from(parts)).view(np.uint8) if parts else np.empty(0, np.uint8)
    for _ in range(3 if part.size else 0):
        part[data.draw(st.integers(0, part.size - 1))] = data.draw(
            st.sampled_from([0, 1, 127, 128, 254, 255])
        )
    return Payload(payload.codec, payload.n, tuple(parts), payload.meta)


def with_a_part_of_another_kind(payload: Payload, data: st.DataObject) -> Payload:
    parts = list(payload.parts)
    if parts:
        index = data.draw(st.integers(0, len(parts) - 1))
        parts[index] = np.ones(data.draw(st.integers(0, 20)), data.draw(st.sampled_from(DTYPES)))
    return Payload(payload.codec, payload.n, tuple(parts), payload.meta)


def with_parts_lost_or_added(payload: Payload, data: st.DataObject) -> Payload:
    kept = data.draw(st.integers(0, len(payload.parts)))
    added = data.draw(st.lists(st.sampled_from(payload.parts or (np.zeros(1, np.uint8),)), max_size=2))
    return Payload(payload.codec, payload.n, (*payload.parts[:kept], *added), payload.meta)


def of_another_codec(payload: Payload, data: st.DataObject) -> Payload:
    return Payload(data.draw(st.integers(0, 255)), payload.n, payload.parts, payload.meta)


def of_another_size(payload: Payload, data: st.DataObject) -> Payload:
    return Payload(payload.codec, data.draw(NUMBERS), payload.parts, payload.meta)


CHANGES: tuple[Change, ...] = (
    with_other_meta,
    with_meta_of_another_length,
    with_other_bytes,
    with_a_part_of_another_kind,
    with_parts_lost_or_added,
    of_another_codec,
    of_another_size,
)
PAYLOADS = {(case, name): make(N).encode(x) for case, make in CASES.items() for name, x in buffers(N).items()}


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(sorted(PAYLOADS)), st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3), st.data()
)
def test_hostile_payloads_are_refused_or_decode_to_something_finite(
    source: tuple[str, str], changes: list[Change], data: st.DataObject
) -> None:
    payload = PAYLOADS[source]
    for change in changes:
        payload = change(payload, data)
    payload = Payload.frombytes(payload.tobytes())
    out = np.full(N, 7, np.float32)
    try:
        decode(payload, out)
    except WireError:
        assert (out == 7).all()
        with pytest.raises(WireError):
            accumulate(payload, 0.5, out)
        assert (out == 7).all()
    else:
        assert np.isfinite(out).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("case", ["onebit", "signsgd", "qsgd-4", "ternary"])
def test_scales_that_no_encoder_makes_are_refused(case: str, bad: float) -> None:
    payload = CASES[case](N).encode(buffers(N)["gaussian"])
    scales = payload.parts[0].copy()
    scales[0] = bad
    out = np.full(N, 7, np.float32)
    with pytest.raises(WireError):
        decode(Payload(payload.codec, N, (scales, *payload.parts[1:]), payload.meta), out)
    assert (out == 7).all()


@pytest.mark.parametrize("indices", [[0, 40], [-1, 3], [3, 3], [4, 3]])
def test_indices_that_do_not_ascend_below_n_are_refused(indices: list[int]) -> None:
    payload = Payload(3, N, (np.ones(2, np.float32), np.array(indices, np.int32)), (2, 0))
    out = np.full(N, 7, np.float32)
    with pytest.raises(WireError, match="ascend"):
        decode(payload, out)
    assert (out == 7).all()


def test_ids_are_those_of_the_format() -> None:
    assert [(codec.id, codec.name) for codec in CODECS] == [
        (0, "identity"), (1, "fp16"), (2, "bf16"), (3, "topk"), (4, "randomk"), (5, "threshold"),
        (6, "onebit"), (7, "signsgd"), (8, "qsgd"), (9, "ternary"), (10, "lowrank"), (11, "chain"),
    ]  # fmt: skip


def chosen_of(n: int, k: int, seed: int) -> NDArray[np.int32]:
    return np.sort(np.random.default_rng(seed).permutation(n)[:k]).astype(np.int32)


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 99))
def test_the_smallest_coding_is_chosen_and_read_back(n: int, share: float, seed: int) -> None:
    k = round(share * n)
    indices = chosen_of(n, k, seed)
    coding, part = write_indices(indices, n)
    gaps = np.diff(indices, prepend=-1) - 1
    bytes_of_gaps = k + sum(int((gaps >= 1 << shift).sum()) for shift in (7, 14, 21, 28))
    assert part.nbytes == min(4 * k, -(-n // 8), bytes_of_gaps)
    assert part.nbytes <= most_bytes(k, n)
    np.testing.assert_array_equal(read_indices(coding, part, k, Payload(3, n, ())), indices)


def test_the_bound_on_index_bytes_is_attained() -> None:
    n, k = 129 * 50, 50
    coding, part = write_indices(np.arange(128, n, 129, dtype=np.int32), n)
    assert (coding, part.nbytes) == (2, 100)
    assert most_bytes(k, n) == 100
    assert most_bytes(3, 2**31 - 1) == 12


def test_few_far_elements_and_many_near_ones() -> None:
    n = 2**24
    far = np.array([n // 3, n - 1], np.int32)
    near = np.arange(0, 2**10, 2, dtype=np.int32)
    for indices, size, coding, nbytes in ((far, n, 0, 8), (near, 2**10, 1, 128), (near, 2**14, 2, 512)):
        found, part = write_indices(indices, size)
        assert (found, part.nbytes) == (coding, nbytes)


def test_payloads_at_odd_addresses_are_read() -> None:
    x: Floats = buffers(33)["gaussian"]
    for make in CASES.values():
        payload = make(33).encode(x)
        wire = payload.tobytes()
        shifted = memoryview(b"\0" + wire)[1:]
        out, expected = np.empty(33, np.float32), np.empty(33, np.float32)
        decode(Payload.frombytes(shifted), out)
        decode(payload, expected)
        assert out.tobytes() == expected.tobytes()
