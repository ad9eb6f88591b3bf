"""The mixers under test, and what each of them promises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hpc_fl.collectives import ChocoMixer, DenseMixer, DirectMixer, SqueezeMixer
from hpc_fl.collectives.mixer import Mixer, Placement
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import BF16, FP16, QSGD, Identity, OneBit, TopK
from hpc_fl.compression.base import Base
from hpc_fl.telemetry import Ledger


@dataclass(frozen=True)
class Case:
    """``make``: a mixer over a transport. ``exact``: it gives W X to so much of the largest value. ``codec``:
    what rows are encoded by. ``contracts``: the consensus distance of 8 nodes on a ring falls to so much of
    what it was in 100 steps.
    """

    make: Callable[[Transport, Ledger, Placement], Mixer]
    exact: float | None = None
    codec: Base | None = None
    contracts: float | None = None


def _direct(codec: Base, exact: float, contracts: float) -> Case:
    return Case(lambda t, ledger, p: DirectMixer(t, ledger, p, codec), exact, codec, contracts)


def _choco(codec: Base, gamma: float, contracts: float, exact: float | None = None) -> Case:
    return Case(lambda t, ledger, p: ChocoMixer(t, ledger, p, codec, gamma=gamma), exact, codec, contracts)


def _squeeze(codec: Base, eta: float, contracts: float) -> Case:
    return Case(lambda t, ledger, p: SqueezeMixer(t, ledger, p, codec, eta=eta), None, codec, contracts)


CASES: Final[dict[str, Case]] = {
    "dense": Case(DenseMixer, 1e-6, contracts=1e-4),
    "dense in short segments": Case(lambda t, ledger, p: DenseMixer(t, ledger, p, segment=64), 1e-6),
    "direct, as it is": _direct(Identity(), 1e-6, 1e-4),
    "direct, fp16": _direct(FP16(), 2e-3, 1e-3),
    "direct, bf16": _direct(BF16(), 2e-2, 1e-2),
    "direct, 8 bits": _direct(QSGD(width=8, block=64), 3e-2, 5e-2),
    "choco, top-k": _choco(TopK(ratio=0.1), 0.2, 0.03),
    "choco, one bit": _choco(OneBit(), 0.2, 0.1),
    "choco, one bit by block": _choco(OneBit(block=32), 0.2, 0.03),
    "choco, 8 bits": _choco(QSGD(width=8, block=64), 0.8, 1e-3),
    "squeeze, top-k": _squeeze(TopK(ratio=0.25), 0.1, 0.35),
    "squeeze, one bit": _squeeze(OneBit(), 0.1, 0.35),
}
