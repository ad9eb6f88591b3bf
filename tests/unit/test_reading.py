"""Payloads read in parts, and payloads of sums."""

import numpy as np
import pytest
import torch

from hpc_fl.collectives import ChocoMixer
from hpc_fl.comm.inprocess import solo
from hpc_fl.compression import BF16, FP16, QSGD, Identity, OneBit, SignSGD, TopK
from hpc_fl.compression.base import Base
from hpc_fl.compression.topk import WarmUp
from hpc_fl.errors import NotFiniteError
from hpc_fl.telemetry import Ledger
from hpc_fl.topology import MixingMatrix

N = 1003
SEGMENTS = (100, 0, 1, 700, 202)
IN_PARTS = (
    Identity(),
    FP16(),
    BF16(),
    OneBit(),
    OneBit(block=100),
    OneBit(block=64),
    OneBit(segments=SEGMENTS),
    SignSGD(0.5),
)


def buffer(seed: int, n: int = N) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("codec", IN_PARTS, ids=str)
@pytest.mark.parametrize("width", [8, 64, 104, 1000, 1003])
def test_parts_make_up_the_whole(codec: Base, width: int) -> None:
    like = buffer(1).numpy()
    reading = codec.read(codec.encode(buffer(0)), like)
    whole, parts = like.copy(), like.copy()
    reading.add(0.3, whole)
    assert reading.add_part is not None
    for start in range(0, N, width):
        reading.add_part(0.3, start, parts[start : start + width])
    np.testing.assert_array_equal(parts, whole)


@pytest.mark.parametrize(
    "codec",
    [
        *IN_PARTS,
        QSGD(width=8),
        TopK(ratio=0.1),
        TopK(k=7),
        TopK(ratio=0.1, segments=SEGMENTS),
        TopK(ratio=0.1, schedule=WarmUp()).at(1, 0),
    ],
    ids=str,
)
def test_the_payload_of_a_sum_is_that_of_the_sum(codec: Base) -> None:
    hints: dict[str, torch.Tensor] = {}
    for round_ in range(3):
        x, e = buffer(2 * round_), buffer(2 * round_ + 1)
        before = x.clone(), e.clone()
        payload = codec.encode_sum(x, e, torch.empty(N), hints)
        assert payload.tobytes() == codec.encode(x + e).tobytes()
        assert torch.equal(x, before[0])
        assert torch.equal(e, before[1])
    x[500] = float("nan")
    with pytest.raises(NotFiniteError):
        codec.encode_sum(x, e, torch.empty(N), hints)


@pytest.mark.parametrize(
    "codec", [OneBit(), OneBit(block=1000), BF16(), QSGD(width=8), TopK(ratio=0.1)], ids=str
)
def test_long_rows_are_moved_as_the_formula_says(codec: Base) -> None:
    """Rows of several pieces; more neighbours than payloads are held."""
    n, nodes, gamma = 200_001, 7, 0.3
    weights = np.full((nodes, nodes), 1 / nodes)
    x = torch.stack([buffer(node, n) for node in range(nodes)])
    public, pull, rows = torch.zeros_like(x), torch.zeros_like(x), x.clone()
    mixer = ChocoMixer(solo(), Ledger(), (tuple(range(nodes)),), codec, gamma=gamma)
    for round_ in range(2):
        mixer.mix(rows, MixingMatrix.from_dense(weights), round_)
        q = torch.zeros_like(x)
        for node in range(nodes):
            one = codec.at(round_, node)
            one.decode(one.encode(x[node] - public[node]), q[node])
        public += q
        pull += torch.from_numpy(weights).float() @ q - q
        x += gamma * pull
        torch.testing.assert_close(rows, x, rtol=0, atol=1e-2 if isinstance(codec, QSGD | BF16) else 2e-4)
