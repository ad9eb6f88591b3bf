"""How far a node goes towards its neighbours in a call of compressed gossip, by the codec.

Koloskova, Stich, Jaggi (ICML 2019) prove convergence for a step made of the spectral gap and the share d of
||x||^2 that a payload is sure to carry. That step is thousands of times smaller than the one that serves best
(their own experiments choose it by trial), and d is 1/n for signs. Here the share is that of what a payload
carries of usual input, numbers of a normal distribution::

    step = part * s      s = 1 - ||x - Q(x)||^2 / ||x||^2,  x of N(0, I)

s is 0.28 for top-k 5%, 0.085 for top-k 1%, 2/pi for signs, r for random-k. ``part``, found by trial on rings
of 8, for consensus of normal vectors and for training: docs/algorithms/gossip.md.
"""

from __future__ import annotations

import math
from typing import Final

import torch

from hpc_fl.compression import Codec
from hpc_fl.errors import CodecError

CHOCO_DENSE: Final = 1.0
"""Of CHOCO, where every element moves in every call."""
CHOCO_SPARSE: Final = 0.75
"""Of CHOCO, where elements wait for their turn and are pulled by old differences meanwhile."""
SQUEEZE: Final = 0.2
"""Of DeepSqueeze, which mixes what was kept back over many rounds as if it were of this one."""

_SEED: Final = 0x73746570
_DRAWN: Final = 1 << 16
_SAMPLE: Final = 4 * _DRAWN
_ALIKE: Final = 0.01
_LEAST: Final = 0.01
_DIGITS: Final = 3


def usual_gamma(codec: Codec, n: int) -> float:
    """CHOCO's step for rows of n elements; above 0, 1 at most; the same on every rank."""
    return _step(CHOCO_SPARSE if codec.selects else CHOCO_DENSE, codec, n)


def usual_eta(codec: Codec, n: int) -> float:
    """DeepSqueeze's step for rows of n elements; above 0, 1 at most; the same on every rank."""
    return _step(SQUEEZE, codec, n)


def normal_share(codec: Codec, n: int) -> float:
    """What share of ||x||^2 a payload carries, for n > 0 normal numbers (the first 65,536, over and over);
    three digits, so that machines that round in other ways agree. Below 0 for a codec that adds more than it
    carries.

    Of more than 262,144 only so many are looked at, where they take as many bytes each as n would, within 1%:
    not with k elements whatever the length, nor with a codec made for tensors of n elements.
    """
    drawn = torch.randn(min(n, _DRAWN), generator=torch.Generator().manual_seed(_SEED))
    first = codec.at(0, 0)
    few = _sample(first, n)
    x = drawn.repeat(-(-few // len(drawn)))[:few].contiguous()
    decoded = torch.empty_like(x)
    first.decode(first.encode(x), decoded)
    lost = decoded.sub_(x).norm() / x.norm()
    return round(1.0 - float(lost) ** 2, _DIGITS)


def _sample(codec: Codec, n: int) -> int:
    """How many elements stand for n."""
    if n <= _SAMPLE:
        return n
    try:
        few = codec.nbytes(_SAMPLE) / _SAMPLE
    except CodecError:  # of segments or shapes, or k elements: more than a sample has
        return n
    return _SAMPLE if math.isclose(few, codec.nbytes(n) / n, rel_tol=_ALIKE) else n


def _step(part: float, codec: Codec, n: int) -> float:
    return min(1.0, part * max(_LEAST, normal_share(codec, n))) if n else 1.0
