"""What a codec leaves out of one round is added to the next: the only thing that remembers here.

Seide et al.: 1-Bit Stochastic Gradient Descent, Interspeech 2014; Karimireddy, Rebjock, Stich, Jaggi: Error
Feedback Fixes SignSGD, ICML 2019. Momentum correction and factor masking: Lin, Han, Mao, Wang, Dally: Deep
Gradient Compression, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hpc_fl.compression.arrays import as_array, as_tensor
from hpc_fl.compression.codec import Codec, Kept
from hpc_fl.compression.decode import read
from hpc_fl.compression.payload import Payload
from hpc_fl.errors import CodecError

_MOMENTUM = "momentum"


class ErrorFeedback:
    """Encodes the updates of the parties hosted here, and keeps for each what its payloads left out.

    ``momentum``: the update is first gathered in a velocity u = momentum * u + x of the party, and u is what
    is encoded (momentum correction: local momentum that knows what was delayed; the strategy then has none
    of its own). ``masking``: u is set to 0 where elements were sent, so that old directions do not outlive
    them; for codecs that choose elements.

    Memory: n floats for each party, and one buffer more; twice that with momentum. Raises
    :class:`CodecError` for a momentum outside 0..1, and for masking without momentum or such a codec.
    """

    def __init__(self, codec: Codec, *, momentum: float = 0.0, masking: bool = False) -> None:
        if not 0 <= momentum < 1:
            raise CodecError(f"error feedback: momentum = {momentum} given; 0 or more and below 1 expected")
        if masking and not (momentum and codec.selects):
            raise CodecError(
                f"error feedback: masking needs momentum above 0 and a codec that chooses elements; "
                f"momentum = {momentum} and {codec.name} given"
            )
        self.codec, self._momentum, self._masking = codec, momentum, masking
        self._kept: dict[int, Kept] = {}
        self._spares: dict[tuple[int, torch.device], list[Tensor]] = {}

    def encode(self, party_id: int, round_: int, x: Tensor) -> Payload:
        """The payload of ``x`` (n,) float32 plus what the party's earlier ones left out; ``x`` is unchanged.

        Raises :class:`NotFiniteError` for a NaN or an infinity, and :class:`CodecError`; what is kept is
        then as it was.
        """
        x = as_tensor(as_array(x, "update"))
        codec, kept = self.codec.at(round_, party_id), self._at_home(party_id, x)
        velocity = kept.pop(_MOMENTUM, None)
        spare = self._spare(x)
        gathered = self._gathered(x, velocity)
        try:
            payload, new = codec.encode_keeping(x if gathered is None else gathered, kept or None, spare)
            if self._masking and gathered is not None:
                gathered[_sent(payload, gathered)] = 0
        except Exception:
            self._give_back(spare, gathered)
            raise
        self._give_back(kept.get("residual"), velocity, None if "residual" in new else spare)
        self._kept[party_id] = new if gathered is None else {**new, _MOMENTUM: gathered}
        return payload

    def state(self) -> dict[int, Kept]:
        """What is kept, by party id, for a checkpoint: the tensors themselves, good until the next call."""
        return {party: dict(kept) for party, kept in self._kept.items()}

    def restore(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Takes over what :meth:`state` gave, of any parties, on any rank; what was kept here is forgotten.

        The tensors are this object's from now on. They are moved to the device of a party's next update.
        """
        self._kept = {party: dict(kept) for party, kept in states.items()}

    def _at_home(self, party_id: int, x: Tensor) -> Kept:
        """A party's state on the device of ``x``, in a dictionary of its own."""
        return {name: tensor.to(x.device) for name, tensor in self._kept.get(party_id, {}).items()}

    def _gathered(self, x: Tensor, velocity: Tensor | None) -> Tensor | None:
        """The new velocity, in memory of its own; None without momentum."""
        if not self._momentum:
            return None
        if velocity is None:
            return self._spare(x).copy_(x)
        if velocity.shape != x.shape:
            raise CodecError(f"momentum: {velocity.numel()} elements kept, the update has {x.numel()}")
        return torch.add(x, velocity, alpha=self._momentum, out=self._spare(x))

    def _spare(self, x: Tensor) -> Tensor:
        spares = self._spares.get((x.numel(), x.device))
        return spares.pop() if spares else torch.empty_like(x)

    def _give_back(self, *buffers: Tensor | None) -> None:
        for buffer in buffers:
            if buffer is not None:
                self._spares.setdefault((buffer.numel(), buffer.device), []).append(buffer)


def _sent(payload: Payload, like: Tensor) -> Tensor:
    """The elements that ``payload`` stands for, as int64."""
    return as_tensor(read(payload, as_array(like)).indices).long()
