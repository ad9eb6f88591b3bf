"""The door to the kernels: which backend, and what it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpc_fl.backends import backend_of, choice
from hpc_fl.backends.backend import Backend
from hpc_fl.backends.checks import Checked
from hpc_fl.backends.cupy_launcher import source
from hpc_fl.backends.library import find_library, kernels_folder
from hpc_fl.backends.native import Native
from hpc_fl.backends.quick import Quick
from hpc_fl.backends.reference import Reference
from hpc_fl.backends.uniform import uniform
from hpc_fl.errors import CodecError, ConfigError

BACKENDS = {
    "reference": Checked(Reference(), np.ndarray),
    "native": Checked(Native(), np.ndarray),
    "quick": Quick(Native()),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


def floats(n: int) -> Any:
    return np.ones(n, np.float32)


def ints(k: int) -> Any:
    return np.arange(k, dtype=np.int32)


def octets(n: int) -> Any:
    return np.zeros(n, np.uint8)


def test_the_compiled_kernels_are_there() -> None:
    assert find_library() is not None, "scripts/setup.sh builds them; they need g++"
    assert choice.cpu().name == "native"
    assert backend_of(floats(1)).name == "native"


def test_the_cuda_sources_are_whole() -> None:
    files = [path.stem for path in (kernels_folder() / "cuda").glob("*.cu")]
    assert len(files) == 6
    for file in files:
        assert "#include" not in source(file)
        assert "KERNEL(THREADS)" in source(file)


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("reference", "native"):
        monkeypatch.setenv(choice.BACKEND, name)
        choice.cpu.cache_clear()
        assert choice.cpu().name == name
    monkeypatch.setenv(choice.BACKEND, "fast")
    choice.cpu.cache_clear()
    with pytest.raises(ConfigError, match="HPC_FL_BACKEND: 'fast' given, allowed: native, reference"):
        choice.cpu()
    monkeypatch.undo()
    choice.cpu.cache_clear()


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_library", lambda: None)
    choice.cpu.cache_clear()
    assert choice.cpu().name == "reference"
    choice.cpu.cache_clear()
    with pytest.raises(ConfigError, match="this processor has portable"):
        Native("sse9")


REFUSED: dict[str, Callable[[Backend], object]] = {
    "dtype": lambda b: b.add_topk(np.ones(8), None, None, ints(2), floats(2)),
    "gaps between": lambda b: b.add_topk(floats(16)[::2], None, None, ints(2), floats(2)),
    "two dimensions": lambda b: b.add_topk(floats(16).reshape(4, 4), None, None, ints(2), floats(2)),
    "no array": lambda b: b.add_topk([1.0], None, None, ints(1), floats(1)),
    "another length kept": lambda b: b.add_topk(floats(8), floats(7), None, ints(2), floats(2)),
    "another length to keep": lambda b: b.add_topk(floats(8), None, floats(9), ints(2), floats(2)),
    "k above n": lambda b: b.add_topk(floats(8), None, None, ints(9), floats(9)),
    "k twice": lambda b: b.add_topk(floats(8), None, None, ints(3), floats(2)),
    "64-bit indices": lambda b: b.add_topk(floats(8), None, None, np.arange(2), floats(2)),
    "negative threshold": lambda b: b.add_threshold(floats(8), None, None, -1.0, ints(8), floats(8)),
    "no threshold": lambda b: b.add_threshold(floats(8), None, None, np.nan, ints(8), floats(8)),
    "no room": lambda b: b.add_threshold(floats(8), None, None, 0.5, ints(7), floats(7)),
    "few bits": lambda b: b.add_sign(
        floats(9), None, None, None, np.array([0, 9]), octets(1), floats(1)
    ),
    "residual without scale": lambda b: b.add_sign(
        floats(8), floats(8), None, None, np.array([0, 8]), octets(1), floats(1)
    ),
    "bounds beyond": lambda b: b.add_signs(octets(1), np.array([0, 9]), floats(1), 1.0, floats(8)),
    "bounds before": lambda b: b.add_signs(octets(1), np.array([-1, 8]), floats(1), 1.0, floats(8)),
    "bounds that fall": lambda b: b.add_signs(octets(1), np.array([0, 9, 1, 8]), floats(3), 1.0, floats(8)),
    "no bounds": lambda b: b.sign_residual(floats(8), np.array([], np.int64), floats(0), floats(8)),
    "no rows": lambda b: b.majority(np.zeros((0, 4), np.uint8), octets(4)),
    "rows of ints": lambda b: b.majority(np.zeros((2, 4), np.int32), octets(4)),
    "values too few": lambda b: b.scatter_add(ints(3), floats(2), 1.0, floats(8)),
    "union without room": lambda b: b.merge_add(
        ints(2), floats(2), ints(2), floats(2), ints(3), floats(3)
    ),
    "one bit": lambda b: b.add_quantize(floats(8), None, None, 1, 8, 0, octets(1), floats(1)),
    "nine bits": lambda b: b.add_quantize(floats(8), None, None, 9, 8, 0, octets(9), floats(1)),
    "block of 12": lambda b: b.add_quantize(floats(8), None, None, 4, 12, 0, octets(4), floats(1)),
    "a block of 2^62": lambda b: b.add_quantize(floats(8), None, None, 4, 2**62, 0, octets(4), floats(1)),
    "a block of 2^31 to read": lambda b: b.add_dequantized(octets(4), floats(1), 4, 2**31, 1.0, floats(8)),
    "a key of 65 bits": lambda b: b.add_quantize(floats(8), None, None, 4, 8, 2**64, octets(4), floats(1)),
    "codes too few": lambda b: b.add_dequantized(octets(3), floats(1), 4, 8, 1.0, floats(8)),
    "gaps without room": lambda b: b.encode_gaps(ints(3), octets(14)),
    "gaps of a fall": lambda b: b.encode_gaps(ints(3)[::-1].copy(), octets(15)),
    "gaps below zero": lambda b: b.encode_gaps(np.array([-1], np.int32), octets(5)),
    "an index past the mask": lambda b: b.encode_mask(np.array([8], np.int32), octets(1)),
    "an index before the mask": lambda b: b.encode_mask(np.array([-1], np.int32), octets(1)),
    "a mask of another length": lambda b: b.decode_mask(octets(2), 8, ints(0)),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_leave_an_array_is_refused(backend: Backend, case: str) -> None:
    with pytest.raises(CodecError):
        REFUSED[case](backend)


def test_the_residual_is_not_written_over(backend: Backend) -> None:
    e = floats(8)
    with pytest.raises(CodecError, match="must stay as it was"):
        backend.add_topk(floats(8), e, e, ints(1), floats(1))


def test_a_read_only_output_is_refused(backend: Backend) -> None:
    out = floats(8)
    out.flags.writeable = False
    with pytest.raises(CodecError, match="a read-only array given"):
        backend.scatter_add(ints(1), floats(1), 1.0, out)
    assert (out == 1).all()


def test_read_only_inputs_will_do(backend: Backend) -> None:
    indices, values, out = ints(3), floats(3), floats(8)
    indices.flags.writeable = values.flags.writeable = False
    backend.scatter_add(indices, values, 2.0, out)
    assert out.tolist() == [3, 3, 3, 1, 1, 1, 1, 1]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31), st.integers(1, 200))
def test_random_numbers_depend_on_key_and_position_only(key: int, start: int, count: int) -> None:
    numbers = uniform(key, start, start + count)
    assert (numbers * 2**17 % 2 == 1).all()
    assert ((numbers > 0) & (numbers < 1)).all()
    half = count // 2
    apart = [uniform(key, start, start + half), uniform(key, start + half, start + count)]
    assert np.array_equal(numbers, np.concatenate(apart))


def test_random_numbers_are_uniform() -> None:
    for key in (0, 1, 2**63, 0x0123456789ABCDEF):
        numbers = uniform(key, 0, 200_000)
        counts = np.histogram(numbers, 100, (0, 1))[0]
        assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square with 99 degrees: 1 in 10,000
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
        assert abs(np.corrcoef(numbers, uniform(key + 1, 0, 200_000))[0, 1]) < 0.01
