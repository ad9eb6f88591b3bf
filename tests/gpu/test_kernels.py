"""The CUDA kernels on a GPU against the reference: CuPy arrays, and torch's memory as CuPy arrays.

Needs neither hypothesis nor an installed package: scripts/gpu_check.sh runs it from a checkout.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from laws.kernel_checks import (
    Host,
    Subject,
    check_add_sign,
    check_add_threshold,
    check_add_topk,
    check_quantize,
)
from laws.kernels import HOSTILE, LAWS, SIZES, data_of

from hpc_fl.backends.choice import backend_of
from hpc_fl.errors import NotFiniteError

cupy = pytest.importorskip("cupy", exc_type=ImportError)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def from_cupy(x: Host) -> Any:
    return cupy.asarray(x)


def from_torch(x: Host) -> Any:
    """The memory is torch's; torch has no unsigned words, and 8 bytes are 8 bytes."""
    tensor = torch.from_numpy(x.view(np.uint8)).cuda()
    return cupy.from_dlpack(tensor).view(x.dtype)


def subject(to_device: Callable[[Host], Any] = from_cupy) -> Subject:
    return Subject(backend_of(cupy.empty(0)), to_device, cupy.asnumpy)


@pytest.mark.parametrize("to_device", [from_cupy, from_torch])
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("law", LAWS)
def test_law(law: str, n: int, to_device: Callable[[Host], Any]) -> None:
    LAWS[law](subject(to_device), n)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_peer_may_send(hostile: str) -> None:
    HOSTILE[hostile](subject())


@pytest.mark.parametrize("kind", ["gaussian", "heavy", "equal", "ties", "ascending"])
@pytest.mark.parametrize("shifts", [(0, 0, 0), (1, 2, 3)])
def test_thousands_of_blocks_at_once(kind: str, shifts: tuple[int, int, int]) -> None:
    n = (1 << 22) + 77
    g, e = data_of(kind, n, 1), data_of(kind, n, 2) * np.float32(0.5)
    for k in (1, n // 1000, n // 100, n // 10):
        check_add_topk(subject(), g, e, k, shifts=shifts)
    check_add_topk(
        subject(), g, e, n // 1000, shifts=shifts, hint=float(np.sort(np.abs(g + e))[-n // 1000]) * 0.99
    )
    check_add_threshold(subject(), g, e, float(np.median(np.abs(g))), shifts=shifts)
    check_add_sign(subject(), g, e, np.array([0, n // 3, n]), shifts=shifts)
    for block in (256, 1 << 20):
        check_quantize(subject(), g, e, 4, block, shifts=shifts)


def test_large_elements_that_no_sample_meets() -> None:
    n = 1 << 20
    g = data_of("gaussian", n)
    g[np.arange(n) % 256 == 255] += 100
    check_add_topk(subject(), g, None, n // 256)


def test_one_result_each_time() -> None:
    """Whatever order blocks run in: the means too."""
    n = (1 << 22) + 5
    backend, bounds = subject().backend, cupy.asarray([0, 1000, n])
    g = from_cupy(data_of("heavy", n))
    found = set()
    for _ in range(10):
        bits, scales = cupy.empty(-(-n // 8), "uint8"), cupy.empty(2, "float32")
        backend.add_sign(g, None, None, None, bounds, bits, scales)
        found.add(scales.get().tobytes() + bits.get().tobytes())
    assert len(found) == 1


def test_work_goes_to_the_current_stream_and_waits_for_nobody() -> None:
    """With the stream held up by a long wait, calls come back at once, and errors come at the check."""
    backend, g = subject().backend, from_cupy(data_of("gaussian", 1 << 16))
    g[5] = np.nan
    indices, values = cupy.empty(100, "int32"), cupy.empty(100, "float32")
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()  # the data were made on another stream
    with stream:
        backend.add_topk(g, None, None, indices, values)  # compiles, and takes its memory
        with pytest.raises(NotFiniteError):
            backend.check()
        hold = cupy.ones(1 << 27, "float32")
        for _ in range(200):
            hold *= 1.000001
        backend.add_topk(g, None, None, indices, values)
        assert not stream.done, "the call waited for the stream"
        with pytest.raises(NotFiniteError):
            backend.check()
        backend.check()


def test_hints_stay_on_the_device() -> None:
    backend, n, k = subject().backend, 1 << 20, 1000
    indices, values = cupy.empty(k, "int32"), cupy.empty(k, "float32")
    hint: Any = 0.0
    for seed in range(4):
        g = data_of("heavy", n, seed)
        hint = backend.add_topk(from_cupy(g), None, None, indices, values, hint)
        assert isinstance(hint, cupy.ndarray)
        assert float(hint) == np.sort(np.abs(g))[-k]
