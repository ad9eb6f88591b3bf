"""The wire format: what it carries comes back; what it did not make is refused."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpc_fl.compression import Identity, Payload
from hpc_fl.errors import WireError

DTYPES = [np.float32, np.float16, np.uint8, np.int32, np.uint16, np.uint32, np.int64]
PARTS = st.lists(
    st.sampled_from(DTYPES).flatmap(lambda dtype: arrays(dtype, st.integers(0, 20))), max_size=4
).map(tuple)


META = st.lists(st.integers(0, 2**64 - 1), max_size=9).map(tuple)


@given(st.integers(0, 255), st.integers(0, 2**64 - 1), PARTS, META)
def test_round_trip(codec: int, n: int, parts: tuple[np.ndarray, ...], meta: tuple[int, ...]) -> None:
    payload = Payload(codec, n, parts, meta)
    back = Payload.frombytes(payload.tobytes())
    assert (back.codec, back.n, back.nbytes, back.meta) == (codec, n, payload.nbytes, meta)
    for a, b in zip(parts, back.parts, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
        assert not b.flags.writeable


@given(PARTS, st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(
    parts: tuple[np.ndarray, ...], data: st.DataObject
) -> None:
    wire = bytearray(Payload(3, 100, parts, (1, 2**40)).tobytes())
    position = data.draw(st.integers(0, 8 * len(wire) - 1))
    wire[position // 8] ^= 1 << position % 8
    with pytest.raises(WireError):
        Payload.frombytes(wire)
    wire[position // 8] ^= 1 << position % 8
    with pytest.raises(WireError):
        Payload.frombytes(wire[: data.draw(st.integers(0, len(wire) - 1))])
    with pytest.raises(WireError):
        Payload.frombytes(bytes(wire) + b"\0")


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        Payload.frombytes(noise)


def test_a_part_larger_than_the_body_is_refused_even_with_a_good_checksum() -> None:
    import zlib

    table = struct.pack("<BQ", 1, 2**61) + b"\0"
    fields = (b"HFLP", 1, 0, 1, 0, 4, 0)
    head = struct.pack("<4sBBHHQQI", *fields, 0)
    signed = struct.pack("<4sBBHHQQI", *fields, zlib.crc32(table, zlib.crc32(head)))
    with pytest.raises(WireError, match="does not fit"):
        Payload.frombytes(signed + table)


def test_identity_decodes_what_it_encodes_and_nothing_else() -> None:
    codec, x, out = Identity(), torch.randn(9), torch.zeros(9)
    payload = Payload.frombytes(codec.encode(x).tobytes())
    assert payload.nbytes == codec.nbytes(9) == 36
    codec.decode(payload, out)
    assert torch.equal(x, out)
    untouched = torch.zeros(9)
    for wrong in (Payload(1, 9, payload.parts), Payload(0, 8, payload.parts), Payload(0, 9, ())):
        with pytest.raises(WireError):
            codec.decode(wrong, untouched)
    with pytest.raises(WireError):
        codec.decode(payload, torch.zeros(8))
    assert (untouched == 0).all()


def test_a_dtype_without_a_code_is_refused() -> None:
    with pytest.raises(WireError, match="float64"):
        Payload(0, 1, (np.zeros(1),)).tobytes()


@pytest.mark.parametrize(
    "payload",
    [
        Payload(256, 1, ()),
        Payload(0, -1, ()),
        Payload(0, 1, (), (-1,)),
        Payload(0, 1, (), (2**64,)),
        Payload(0, 1, (), (0,) * 65536),
        Payload(0, 1, (np.zeros((1, 1), np.float32),)),
    ],
)
def test_what_the_header_has_no_room_for_is_refused(payload: Payload) -> None:
    with pytest.raises(WireError):
        payload.tobytes()


def test_parts_lie_aligned_so_that_decoding_copies_nothing() -> None:
    for metas in range(5):
        wire = Payload(0, 9, (np.zeros(9, np.float32),), (1,) * metas).tobytes()
        assert Payload.frombytes(wire).parts[0].flags.aligned
