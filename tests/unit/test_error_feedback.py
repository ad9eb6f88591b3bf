"""Error feedback: what is sent, and what is kept at the end, is what came in."""

from __future__ import annotations

import pytest
import torch
from laws.codec_laws import CASES, SELECTIONS
from torch import Tensor

from hpc_fl.compression import (
    QSGD,
    Chain,
    Codec,
    ErrorFeedback,
    Identity,
    Kept,
    OneBit,
    Payload,
    RandomK,
    Ternary,
    TopK,
    WarmUp,
    decode,
)
from hpc_fl.errors import CodecError, NotFiniteError

N = 100
ALL = pytest.mark.parametrize("case", CASES)


def updates(rounds: int, seed: int = 0, *, whole: bool = False) -> Tensor:
    """(rounds, N) float32; ``whole``: small integers, whose sums are exact."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        return torch.randint(-9, 10, (rounds, N), generator=generator).float()
    return torch.randn(rounds, N, generator=generator)


def decoded(payload: Payload) -> Tensor:
    out = torch.empty(N)
    decode(payload, out)
    return out


def kept_back(feedback: ErrorFeedback, party: int, last: Payload) -> Tensor:
    """What is kept back for a party; sign codecs keep it before the last payload is taken off."""
    kept = feedback.state()[party]
    if not kept:
        return torch.zeros(N)
    return kept["residual"] - decoded(last) if "scales" in kept else kept["residual"]


@ALL
@pytest.mark.parametrize("whole", [False, True])
def test_sent_and_kept_are_what_came_in(case: str, whole: bool) -> None:
    feedback, x = ErrorFeedback(CASES[case](N)), updates(20, whole=whole)
    sent = torch.zeros(N)
    for round_, row in enumerate(x):
        before = row.clone()
        payload = feedback.encode(3, round_, row)
        assert torch.equal(row, before)
        sent += decoded(payload)
    total = sent + kept_back(feedback, 3, payload)
    if whole and case in (*SELECTIONS, "identity", "fp16", "bf16"):
        assert torch.equal(total, x.sum(0))
    else:
        torch.testing.assert_close(total, x.sum(0), rtol=1e-4, atol=1e-4)


def moved(state: dict[int, Kept], codec: Codec) -> ErrorFeedback:
    """Error feedback that goes on from a copy of ``state``, as from a checkpoint."""
    feedback = ErrorFeedback(codec)
    feedback.restore(
        {party: {name: tensor.clone() for name, tensor in kept.items()} for party, kept in state.items()}
    )
    return feedback


@ALL
def test_parties_are_apart_and_may_move(case: str) -> None:
    """Two parties on one rank send what each sends alone, also when it moves to another rank half-way."""
    codec, xs = CASES[case](N), {party: updates(6, party) for party in (2, 9)}
    together, alone = ErrorFeedback(codec), {party: ErrorFeedback(codec) for party in xs}
    for round_ in range(6):
        if round_ == 3:
            state = together.state()
            alone = {party: moved({party: state[party]}, codec) for party in alone}
            together = moved(state, codec)
        for party, x in xs.items():
            wire = together.encode(party, round_, x[round_]).tobytes()
            assert alone[party].encode(party, round_, x[round_]).tobytes() == wire


@ALL
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_after_an_error_the_state_is_as_before(case: str, momentum: float) -> None:
    feedback, x = ErrorFeedback(CASES[case](N), momentum=momentum), updates(3)
    feedback.encode(0, 0, x[0])
    before = {name: tensor.clone() for name, tensor in feedback.state()[0].items()}
    broken = x[1].clone()
    broken[50] = float("nan")
    with pytest.raises(NotFiniteError):
        feedback.encode(0, 1, broken)
    with pytest.raises(NotFiniteError):
        feedback.encode(1, 1, broken)
    after = feedback.state()
    assert set(after) == {0}
    assert all(torch.equal(before[name], after[0][name]) for name in before)
    reference = ErrorFeedback(CASES[case](N), momentum=momentum)
    reference.restore({0: before})
    assert feedback.encode(0, 2, x[2]).tobytes() == reference.encode(0, 2, x[2]).tobytes()


def test_memory_is_one_buffer_a_party_and_one_more() -> None:
    feedback, addresses = ErrorFeedback(TopK(0.1)), set()
    for round_, row in enumerate(updates(10)):
        for party in range(4):
            feedback.encode(party, round_, row)
            addresses |= {kept["residual"].data_ptr() for kept in feedback.state().values()}
    assert len(addresses) == 5


def test_momentum_correction_and_masking_are_those_of_dgc() -> None:
    x, k = updates(12), 10
    for masking in (False, True):
        feedback = ErrorFeedback(TopK(k=k), momentum=0.9, masking=masking)
        velocity, residual = torch.zeros(N), torch.zeros(N)
        for round_, row in enumerate(x):
            velocity = row + 0.9 * velocity
            residual = residual + velocity
            top = residual.abs().topk(k).indices
            expected = torch.zeros(N)
            expected[top] = residual[top]
            residual[top] = 0
            if masking:
                velocity[top] = 0
            torch.testing.assert_close(decoded(feedback.encode(5, round_, row)), expected)


@pytest.mark.parametrize(
    "codec", [TopK(0.1), RandomK(0.1), Ternary(0.1), Chain(TopK(0.1), QSGD())], ids=lambda codec: codec.name
)
def test_every_codec_that_selects_can_be_masked(codec: TopK) -> None:
    feedback = ErrorFeedback(codec, momentum=0.5, masking=True)
    payload = feedback.encode(0, 0, torch.ones(N))
    velocity = feedback.state()[0]["momentum"]
    assert torch.equal(velocity == 0, decoded(payload) != 0)


def test_schedules_reach_the_codec() -> None:
    feedback = ErrorFeedback(TopK(0.01, schedule=WarmUp(2, 0.25)))
    taken = [feedback.encode(0, round_, row).meta[0] for round_, row in enumerate(updates(4))]
    assert taken == [25, 5, 1, 1]


def test_wrong_options_and_foreign_states_are_refused() -> None:
    for momentum in (-0.1, 1.0, float("nan")):
        with pytest.raises(CodecError, match="momentum"):
            ErrorFeedback(TopK(0.1), momentum=momentum)
    with pytest.raises(CodecError, match="masking"):
        ErrorFeedback(TopK(0.1), masking=True)
    with pytest.raises(CodecError, match="masking"):
        ErrorFeedback(OneBit(), momentum=0.9, masking=True)
    signs, top = ErrorFeedback(OneBit()), ErrorFeedback(TopK(0.1), momentum=0.9)
    signs.encode(0, 0, torch.ones(N))
    top.restore(signs.state())
    with pytest.raises(CodecError, match="another codec"):
        top.encode(0, 1, torch.ones(N))
    top.restore({})
    top.encode(0, 0, torch.ones(N))
    with pytest.raises(CodecError):
        top.encode(0, 1, torch.ones(N - 1))
    with pytest.raises(CodecError, match="float32"):
        top.encode(0, 1, torch.ones(N, dtype=torch.float64))


def test_error_feedback_makes_a_poor_codec_converge() -> None:
    """Gradient descent on a quadratic, of which 1 element in 100 is sent a step."""
    target = updates(1)[0]
    x, feedback = torch.zeros(N), ErrorFeedback(TopK(0.01))
    for round_ in range(3000):
        x += decoded(feedback.encode(0, round_, 0.01 * (target - x)))
    assert (x - target).norm() < 0.05 * target.norm()


def test_a_codec_without_error_keeps_nothing() -> None:
    feedback = ErrorFeedback(Identity())
    feedback.encode(0, 0, torch.ones(N))
    assert feedback.state() == {0: {}}
