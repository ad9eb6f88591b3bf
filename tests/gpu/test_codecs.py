"""Codecs on a GPU: the payloads of the CPU, from torch tensors and CuPy arrays alike."""

import numpy as np
import pytest
import torch
from laws.codec_laws import CASES, SIZES, buffers

from hpc_fl.compression import ErrorFeedback, Identity, Payload, accumulate, decode
from hpc_fl.errors import CodecError, NotFiniteError, WireError

pytest.importorskip("cupy", exc_type=ImportError)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

ALL = pytest.mark.parametrize("case", CASES)
SUMMED = ("onebit", "onebit-segments", "onebit-block", "ternary", "chain-segments-onebit", "lowrank")
"""Those with a sum, whose order differs."""


@ALL
def test_payloads_are_those_of_the_cpu_and_decode_on_both(case: str) -> None:
    for n in SIZES:
        codec = CASES[case](n)
        for name, x in buffers(n).items():
            there, here = codec.encode(torch.from_numpy(x).cuda()), codec.encode(x)
            if case not in SUMMED:
                assert there.tobytes() == here.tobytes(), (name, n)
            expected, out = np.empty(n, np.float32), torch.empty(n, device="cuda")
            decode(here, expected)
            rtol, atol = (1e-3, 1e-3 * float(np.abs(x).max(initial=0))) if case in SUMMED else (0.0, 0.0)
            for payload in (there, Payload.frombytes(there.tobytes())):
                decode(payload, out)
                np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=rtol, atol=atol)
            on_host = np.zeros(n, np.float32)
            accumulate(there, 1.0, on_host)
            np.testing.assert_allclose(on_host, out.cpu().numpy(), rtol=1e-6)


@ALL
def test_error_feedback_on_the_gpu_sends_what_came_in(case: str) -> None:
    n = 1000
    feedback, sent, total = ErrorFeedback(CASES[case](n)), torch.zeros(n).cuda(), torch.zeros(n).cuda()
    for round_ in range(10):
        x = torch.randn(n, device="cuda")
        total += x
        payload = feedback.encode(0, round_, x)
        accumulate(payload, 1.0, sent)
        if round_ == 5:  # by a checkpoint, whose tensors are on the CPU
            feedback.restore({0: {name: tensor.cpu() for name, tensor in feedback.state()[0].items()}})
    kept = feedback.state()[0]
    if "scales" in kept:
        accumulate(payload, -1.0, kept["residual"])
    torch.testing.assert_close(sent + kept.get("residual", 0), total, rtol=1e-4, atol=1e-4)


@ALL
def test_what_is_not_finite_is_refused_on_the_gpu(case: str) -> None:
    x = torch.ones(33, device="cuda")
    x[7] = float("nan")
    with pytest.raises(NotFiniteError):
        CASES[case](33).encode(x)
    with pytest.raises(NotFiniteError):
        CASES[case](33).encode_keeping(x, None, torch.empty(33, device="cuda"))


def test_buffers_of_two_devices_are_refused() -> None:
    codec = CASES["topk-ratio"](33)
    with pytest.raises(CodecError, match="move one"):
        codec.encode_keeping(torch.ones(33, device="cuda"), None, torch.empty(33))


def test_a_hostile_payload_leaves_the_gpu_buffer_as_it_was() -> None:
    out = torch.full((40,), 7.0, device="cuda")
    payload = Payload(3, 40, (np.ones(2, np.float32), np.array([3, 40], np.int32)), (2, 0))
    with pytest.raises(WireError):
        decode(payload, out)
    with pytest.raises(WireError):
        decode(Payload(0, 40, (np.full(40, np.nan, np.float32),)), out)
    assert (out == 7).all()


def test_cupy_arrays_are_taken_as_they_are() -> None:
    import cupy

    x = cupy.arange(9, dtype=cupy.float32)
    (part,) = Identity().encode(x).parts
    assert part.data.ptr == x.data.ptr
