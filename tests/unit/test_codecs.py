"""The laws of all codecs: bytes, decoding, contraction, expectation, selection, refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from laws.codec_laws import CASES, EXACT_BYTES, SELECTIONS, SIZES, Floats, buffers, shapes, thirds

from hpc_fl.compression import (
    FP16,
    QSGD,
    Chain,
    Codec,
    Identity,
    LowRank,
    OneBit,
    Payload,
    RandomK,
    SignSGD,
    Ternary,
    Threshold,
    TopK,
    WarmUp,
    decode,
)
from hpc_fl.errors import CodecError, NotFiniteError, WireError

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


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_nothing_changes(case: str, bad: float) -> None:
    n = 33
    codec, x = CASES[case](n), torch.from_numpy(buffers(n)["gaussian"])
    _, kept = codec.encode_keeping(x, None, torch.empty(n))
    before = {name: tensor.clone() for name, tensor in kept.items()}
    for position in (0, 7, 32):
        broken = x.clone()
        broken[position] = bad
        with pytest.raises(NotFiniteError):
            codec.encode(broken)
        with pytest.raises(NotFiniteError):
            codec.encode_keeping(broken, kept, torch.empty(n))
        assert all(torch.equal(before[name], kept[name]) for name in kept)


@ALL
def test_a_sum_that_overflows_is_not_kept(case: str) -> None:
    n = 8
    codec = CASES[case](n)
    x = torch.full((n,), 3e38)
    x[::2] = 2e38
    if not codec.encode_keeping(torch.ones(n), None, torch.empty(n))[1]:
        return
    kept = None
    for _ in range(40):
        try:
            _, kept = codec.encode_keeping(x, kept, torch.empty(n))
        except NotFiniteError:
            break
    assert kept is None or all(tensor.isfinite().all() for name, tensor in kept.items() if name != "hint")


WRONG: dict[str, Any] = {
    "float64": torch.zeros(9, dtype=torch.float64),
    "float16": np.zeros(9, np.float16),
    "big-endian": np.zeros(9, ">f4"),
    "2-d": torch.zeros(3, 3),
    "gaps": torch.zeros(18)[::2],
    "numpy gaps": np.zeros(18, np.float32)[::2],
    "list": [0.0] * 9,
    "meta": torch.zeros(9, device="meta"),
    "sparse": torch.zeros(9).to_sparse(),
}


@ALL
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_buffers_are_one_typed_error(case: str, wrong: str) -> None:
    codec, x = CASES[case](9), WRONG[wrong]
    for call in (
        lambda: codec.encode(x),
        lambda: codec.encode_keeping(x, None, torch.empty(9)),
        lambda: codec.encode_keeping(torch.zeros(9), None, x),
        lambda: codec.decode(codec.encode(np.zeros(9, np.float32)), x),
    ):
        with pytest.raises(CodecError):
            call()


@ALL
def test_outputs_of_another_size_and_read_only_ones_are_refused(case: str) -> None:
    codec = CASES[case](9)
    payload = codec.encode(np.ones(9, np.float32))
    with pytest.raises(WireError):
        codec.decode(payload, np.zeros(8, np.float32))
    frozen = np.zeros(9, np.float32)
    frozen.flags.writeable = False
    with pytest.raises(CodecError):
        codec.decode(payload, frozen)
    with pytest.raises(CodecError):
        codec.encode_keeping(np.ones(9, np.float32), None, torch.empty(8))


@ALL
def test_gradients_are_let_go_and_unaligned_buffers_taken(case: str) -> None:
    codec, x = CASES[case](9), torch.randn(10)
    expected = codec.encode(x[1:].clone()).tobytes()
    assert codec.encode(x[1:]).tobytes() == expected
    assert codec.encode(x[1:].clone().requires_grad_()).tobytes() == expected


@ALL
def test_a_payload_of_another_codec_is_refused(case: str) -> None:
    codec, out = CASES[case](9), np.full(9, 5, np.float32)
    for other in CASES.values():
        payload = other(9).encode(np.ones(9, np.float32))
        if payload.codec != codec.id:
            with pytest.raises(WireError):
                codec.decode(payload, out)
    assert (out == 5).all()


@ALL
def test_what_another_codec_kept_is_refused(case: str) -> None:
    codec = CASES[case](9)
    _, kept = codec.encode_keeping(torch.ones(9), None, torch.empty(9))
    foreign = {**kept, "residual": torch.zeros(9), "other": torch.zeros(1)}
    with pytest.raises(CodecError):
        codec.encode_keeping(torch.ones(9), foreign, torch.empty(9))
    if kept:
        with pytest.raises(CodecError, match="spare"):
            codec.encode_keeping(torch.ones(9), kept, kept["residual"])
        short = {name: tensor[:-1].clone() for name, tensor in kept.items()}
        with pytest.raises(CodecError):
            codec.encode_keeping(torch.ones(9), short, torch.empty(9))


MISTAKES: list[Callable[[], Codec]] = [
    TopK,
    lambda: TopK(0.0),
    lambda: TopK(1.5),
    lambda: TopK(float("nan")),
    lambda: TopK(0.1, k=3),
    lambda: TopK(k=-1),
    lambda: TopK(k=3, segments=(3,)),
    lambda: TopK(0.1, segments=()),
    lambda: TopK(0.1, segments=(3, -1)),
    lambda: TopK(k=3, schedule=WarmUp()),
    lambda: TopK(0.1, schedule=WarmUp(rounds=0)),
    RandomK,
    lambda: RandomK(k=0, unbiased=True),
    lambda: Threshold(-1.0),
    lambda: Threshold(float("nan")),
    lambda: OneBit(segments=(1,), block=8),
    lambda: OneBit(block=0),
    lambda: SignSGD(0.0),
    lambda: SignSGD(1e-60),
    lambda: SignSGD(1e39),
    lambda: QSGD(9),
    lambda: QSGD(1),
    lambda: QSGD(4, 12),
    Ternary,
    lambda: LowRank(0, ((3, 3),)),
    lambda: LowRank(1, ()),
    lambda: LowRank(1, ((3, -1),)),
    lambda: Chain(RandomK(0.1), QSGD()),  # type: ignore[arg-type]
    lambda: Chain(TopK(0.1), TopK(0.1)),
    lambda: Chain(TopK(0.1), Identity()),
]


@pytest.mark.parametrize("mistake", range(len(MISTAKES)))
def test_wrong_parameters_are_refused_in_one_line(mistake: int) -> None:
    with pytest.raises(CodecError) as error:
        MISTAKES[mistake]()
    assert "\n" not in str(error.value)


def test_parameters_that_do_not_fit_the_buffer_are_refused() -> None:
    x = np.ones(9, np.float32)
    codecs: list[Codec] = [
        TopK(k=10), RandomK(k=10), Ternary(k=10), TopK(0.1, segments=thirds(8)), OneBit(segments=thirds(8)),
        LowRank(1, shapes(8)),
    ]  # fmt: skip
    for codec in codecs:
        with pytest.raises(CodecError):
            codec.encode(x)
        with pytest.raises(CodecError):
            codec.nbytes(9)
