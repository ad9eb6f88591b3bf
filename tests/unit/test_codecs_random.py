"""What depends on seeds, rounds and parties: random choices, stochastic rounding, warm starts, schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws.codec_laws import CASES, buffers

from hpc_fl.compression import QSGD, Chain, LowRank, Payload, RandomK, Ternary, TopK, WarmUp, decode
from hpc_fl.compression.randomk import chosen
from hpc_fl.counter import key


@given(st.integers(0, 5000), st.floats(0, 1), st.integers(0, 2**64 - 1))
def test_chosen_elements_are_distinct_and_ascend_below_n(n: int, share: float, name: int) -> None:
    k = round(share * n)
    indices = chosen(name, n, k)
    assert indices.size == k
    assert indices.dtype == np.int32
    assert (np.diff(indices) > 0).all()
    assert k == 0 or (indices[0] >= 0 and indices[-1] < n)


@pytest.mark.parametrize(("n", "k"), [(9, 3), (33, 5), (64, 64)])
def test_every_element_is_chosen_as_often_as_any_other(n: int, k: int) -> None:
    rounds = 2000
    counts = np.zeros(n)
    for round_ in range(rounds):
        counts[chosen(key(1, round_), n, k)] += 1
    share = k / n
    assert (np.abs(counts / rounds - share) <= 4 * np.sqrt(share * (1 - share) / rounds)).all()


def test_all_parties_choose_alike_so_that_payloads_may_be_summed() -> None:
    codec, n = RandomK(0.3, seed=5), 100
    xs = [torch.randn(n) for _ in range(3)]
    payloads = [codec.at(4, party).encode(x) for party, x in enumerate(xs)]
    assert len({payload.meta for payload in payloads}) == 1
    assert codec.at(5, 0).encode(xs[0]).meta != payloads[0].meta
    summed = Payload(codec.id, n, (sum(payload.parts[0] for payload in payloads),), payloads[0].meta)
    one, each = torch.empty(n), torch.zeros(n)
    decode(summed, one)
    for payload in payloads:
        codec.accumulate(payload, 1.0, each)
    torch.testing.assert_close(one, each)


def test_error_feedback_is_never_scaled() -> None:
    x = torch.ones(10)
    scaled, plain = RandomK(0.5, unbiased=True), RandomK(0.5)
    assert scaled.encode(x).parts[0].tolist() == [2.0] * 5
    assert scaled.encode_keeping(x, None, torch.empty(10))[0].tobytes() == plain.encode(x).tobytes()


def test_rounding_depends_on_seed_party_and_round_alone() -> None:
    x = torch.linspace(-1, 1, 999)
    names = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    wires = [QSGD(seed=seed).at(round_, party).encode(x).tobytes() for seed, round_, party in names]
    assert len(set(wires)) == 4
    assert QSGD().at(3, 1).at(0, 0).encode(x).tobytes() == wires[0]


def test_warm_up_falls_exponentially_as_in_the_paper() -> None:
    ratios = [WarmUp().ratio(round_, 0.001) for round_ in range(6)]
    np.testing.assert_allclose(ratios, [0.25, 0.0629, 0.0158, 0.00398, 0.001, 0.001], rtol=0.01)
    assert WarmUp(start=0.1).ratio(0, 0.5) == 0.5


def test_schedules_reach_the_codec_through_its_round() -> None:
    schedule, n = WarmUp(2, 0.5), 1000
    for codec in (TopK(0.1, schedule=schedule), Ternary(0.1, schedule=schedule)):
        taken = [codec.at(round_, 3).encode(buffers(n)["gaussian"]).meta[0] for round_ in range(4)]
        assert taken == [500, 224, 100, 100]
    chain = Chain(TopK(0.1, schedule=schedule), QSGD())
    assert chain.at(0, 3).encode(buffers(n)["gaussian"]).meta[0] == 500
    assert TopK(0.1, segments=(n,), schedule=schedule).at(0, 0).most(n) == 500


@pytest.mark.parametrize("case", CASES)
def test_the_codec_of_a_round_is_the_same_kind(case: str) -> None:
    codec = CASES[case](33)
    later = codec.at(9, 4)
    assert (type(later), later.name, later.linear, later.unbiased, later.selects) == (
        type(codec), codec.name, codec.linear, codec.unbiased, codec.selects
    )  # fmt: skip
    assert later.nbytes(33) == codec.nbytes(33)


def test_a_warm_start_finds_the_dominant_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(m, m, generator=generator)).Q for m in (40, 30))
    values = torch.tensor([8.0, 6.0, *[1.0] * 28])
    matrix = (left[:, :30] * values) @ right.T
    codec, kept, errors = LowRank(2, ((40, 30),)), None, []
    for _ in range(8):
        payload, kept = codec.encode_keeping(matrix.reshape(-1), kept, torch.empty(1200))
        out = torch.empty(1200)
        decode(payload, out)
        errors.append(float((matrix.reshape(-1) - out).norm()))
        kept["residual"].zero_()
    best = 28**0.5
    assert errors[-1] == pytest.approx(best, rel=1e-3)
    assert errors[0] > 1.1 * best


def test_a_matrix_of_low_rank_is_sent_whole_and_small_tensors_as_they_are() -> None:
    matrix = torch.outer(torch.arange(1.0, 21), torch.arange(1.0, 31))
    x = torch.cat([torch.randn(7), matrix.reshape(-1), torch.randn(4)])
    codec, out = LowRank(1, ((7,), (20, 5, 6), (2, 2))), torch.empty(611)
    payload = codec.encode(x)
    decode(payload, out)
    assert payload.nbytes == codec.nbytes(611) == 4 * (7 + 20 + 30 + 4)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-5)


def test_a_low_rank_start_survives_a_round_of_zeros() -> None:
    codec = LowRank(1, ((20, 30),))
    _, kept = codec.encode_keeping(torch.zeros(600), None, torch.empty(600))
    assert kept["factors"].abs().max() > 0
    assert kept["factors"].isfinite().all()
