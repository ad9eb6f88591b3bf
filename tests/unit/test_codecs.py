"""The laws of all codecs: bytes, decoding, contraction, expectation, selection, refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from laws.codec_laws import CASES, EXACT_BYTES, SELECTIONS, SIZES, Floats, buffers

from hpc_fl.compression import (
    FP16,
    LowRank,
    OneBit,
    Payload,
    SignSGD,
    Ternary,
    TopK,
    decode,
)

ALL = pytest.mark.parametrize("case", CASES)


def decoded(payload: Payload) -> Floats:
    out = np.full(payload.n, np.nan, np.float32)
    decode(payload, out)
    return out


def squared(x: Floats) -> float:
    return float(np.square(x.astype(np.float64)).sum())


@ALL
def test_what_was_encoded_comes_back_from_bytes_alone(case: str) -> None:
    for n in SIZES:
        codec = CASES[case](n)
        for name, x in buffers(n).items():
            before = x.tobytes()
            payload = codec.encode(x)
            back = Payload.frombytes(payload.tobytes())
            out, again = decoded(back), np.full(n, np.nan, np.float32)
            codec.decode(payload, again)
            assert np.isfinite(out).all(), name
            assert out.tobytes() == again.tobytes(), name
            assert x.tobytes() == before, name
            assert back.nbytes <= codec.nbytes(n), (name, n)
            assert case not in EXACT_BYTES or back.nbytes == codec.nbytes(n), (name, n)
            assert codec.encode(torch.from_numpy(x)).tobytes() == payload.tobytes(), name


@ALL
def test_accumulate_adds_the_weighted_decoded_buffer(case: str) -> None:
    for n in SIZES:
        x = buffers(n)["gaussian"]
        codec, out = CASES[case](n), torch.linspace(-1, 1, n)
        payload = codec.encode(x)
        expected = out.numpy() + np.float32(0.3) * decoded(payload)
        codec.accumulate(payload, 0.3, out)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)


STOCHASTIC = ("randomk", "randomk-unbiased", "qsgd-2", "qsgd-4", "qsgd-7", "qsgd-8")


@ALL
def test_the_error_is_within_the_contraction_bound(case: str) -> None:
    rounds, slack = (100, 1.25) if case in STOCHASTIC else (1, 1 + 1e-5)
    for n in (9, 33) if case in STOCHASTIC else SIZES:
        codec = CASES[case](n)
        bound = codec.contraction(n)
        if bound is None:
            continue
        assert 0 <= bound <= 1
        for name in ("gaussian", "heavy", "huge", "zeros", "equal", "one"):  # subnormals are all rounding
            x = buffers(n)[name]
            errors = [squared(x - decoded(codec.at(r, 0).encode(x))) for r in range(rounds)]
            assert np.mean(errors) <= (1 - bound) * slack * squared(x) + 1e-5 * squared(x), (name, n)


def test_a_low_rank_start_holds_its_share_of_any_matrix_on_average() -> None:
    x = np.random.default_rng(0).standard_normal(20 * 30).astype(np.float32)
    errors = [squared(x - decoded(LowRank(3, ((20, 30),), seed).encode(x))) for seed in range(50)]
    bound = LowRank(3, ((20, 30),)).contraction(600)
    assert bound == pytest.approx(0.1)
    assert np.mean(errors) <= (1 - 0.1) * squared(x)


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name](9).unbiased])
def test_unbiased_codecs_are_right_in_expectation(case: str) -> None:
    n, rounds = 33, 1000
    x, codec = buffers(n)["gaussian"], CASES[case](n)
    rows = np.stack([decoded(codec.at(r, 7).encode(x)) for r in range(rounds)]).astype(np.float64)
    spread = rows.std(0) / np.sqrt(rounds)
    assert (np.abs(rows.mean(0) - x) <= 4.5 * spread + 1e-6).all()


@pytest.mark.parametrize("case", SELECTIONS)
def test_selection_loses_nothing_of_any_bit_pattern(case: str) -> None:
    for n in SIZES:
        for name, x in buffers(n).items():
            codec, spare = CASES[case](n), torch.empty(n)
            payload, kept = codec.encode_keeping(x, None, spare)
            old = kept["residual"].clone()
            np.testing.assert_array_equal(decoded(payload) + old.numpy(), x, err_msg=name)
            payload, new = codec.encode_keeping(x, kept, torch.empty(n))
            np.testing.assert_array_equal(decoded(payload) + new["residual"].numpy(), x + old.numpy(), name)
            assert torch.equal(kept["residual"], old)


def test_topk_takes_the_largest_and_ties_go_to_the_lower_index() -> None:
    x = np.array([1, -3, 2, 3, -2, 0], np.float32)
    np.testing.assert_array_equal(decoded(TopK(k=2).encode(x)), [0, -3, 0, 3, 0, 0])
    np.testing.assert_array_equal(decoded(TopK(k=3).encode(x)), [0, -3, 2, 3, 0, 0])
    each = TopK(0.5, segments=(2, 4))
    np.testing.assert_array_equal(decoded(each.encode(x)), [0, -3, 2, 3, 0, 0])
    assert TopK(0.5, segments=(2, 4)).contraction(6) == 0.5


def test_sent_signs_are_those_of_the_sign_bit() -> None:
    x = np.array([0.0, -0.0, 2.0, -4.0], np.float32)
    np.testing.assert_array_equal(decoded(OneBit().encode(x)), [1.5, -1.5, 1.5, -1.5])
    np.testing.assert_array_equal(decoded(OneBit(segments=(2, 2)).encode(x)), [0, 0, 3, -3])
    np.testing.assert_array_equal(
        decoded(OneBit(block=3).encode(x)), np.array([2, -2, 2, -12], np.float32) / 3
    )
    np.testing.assert_array_equal(decoded(SignSGD(0.5).encode(x)), [0.5, -0.5, 0.5, -0.5])
    np.testing.assert_array_equal(decoded(Ternary(k=2).encode(x)), [0, 0, 3, -3])


def test_half_precision_saturates() -> None:
    x = np.array([1e6, -1e6, 65504, 65519, 1.0, -0.0], np.float32)
    out = decoded(FP16().encode(x))
    np.testing.assert_array_equal(out, [65504, -65504, 65504, 65504, 1, 0])
    limit = np.float32(3.4028235e38)
    largest = decoded(CASES["bf16"](2).encode(np.array([limit, -limit], np.float32)))
    assert np.isfinite(largest).all()
    assert largest[0] == -largest[1] > 3.38e38


@ALL
def test_byte_formulas(case: str) -> None:
    """The formulas of docs/algorithms/codecs.md, at one size."""
    n = 1000
    index = 4 * 0 + min(4 * 100, 125, 100 + 900 // 128)
    expected: dict[str, int] = {
        "identity": 4000, "fp16": 2000, "bf16": 2000, "topk-ratio": 400 + index, "topk-none": 0,
        "topk-all": 4125, "randomk": 800, "onebit": 129, "onebit-segments": 137, "onebit-block": 925,
        "signsgd": 129, "qsgd-4": 508, "qsgd-8": 1008, "qsgd-2": 750, "qsgd-7": 939,
        "ternary": 4 + 13 + index, "threshold": 4125,
        "lowrank": 4 * (2 * 44 + 1000 - 22 * 22),
    }  # fmt: skip
    assert CASES[case](n).nbytes(n) == expected.get(case, CASES[case](n).nbytes(n))
