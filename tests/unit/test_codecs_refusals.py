"""What codecs refuse: updates that are not finite, wrong buffers, foreign states, impossible parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from laws.codec_laws import CASES, buffers, shapes, thirds

from hpc_fl.compression import (
    QSGD,
    Chain,
    Codec,
    Identity,
    LowRank,
    OneBit,
    RandomK,
    SignSGD,
    Ternary,
    Threshold,
    TopK,
    WarmUp,
)
from hpc_fl.errors import CodecError, NotFiniteError, WireError

ALL = pytest.mark.parametrize("case", CASES)


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
