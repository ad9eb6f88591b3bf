"""What all ranks must agree on before a collective moves anything, and what each of them brings."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from hpc_fl.comm.control import allgather_bytes
from hpc_fl.comm.transport import Transport
from hpc_fl.errors import TransportError, TransportTimeout

_RECORD: Final = struct.Struct("<qd")
RECORD_BYTES: Final = _RECORD.size
"""What a rank tells every other one: a digest of the facts, and its number."""

_ROLL_CALL: Final = 0x7FF0
_ANSWER_WITHIN: Final = 2.0
_GLANCE: Final = 0.01


def agree(transport: Transport, facts: Mapping[str, object], number: float) -> tuple[float, ...]:
    """Every rank's ``number``, by rank, where the ``facts`` are the same on all (collective).

    One small allgather. Raises :class:`TransportError` on every rank, with the same text, where the facts
    differ: it names them and the ranks; :class:`TransportTimeout` names the ranks that did not come.
    """
    told = json.dumps({key: str(value) for key, value in facts.items()}, sort_keys=True).encode()
    digest = int.from_bytes(blake2b(told, digest_size=8).digest(), "little", signed=True)
    if transport.size == 1:
        return (number,)
    mine = np.frombuffer(_RECORD.pack(digest, number), np.uint8)
    everyone = np.empty(transport.size * RECORD_BYTES, np.uint8)
    try:
        transport.allgather(mine, everyone)
    except TransportTimeout as error:
        raise TransportTimeout(f"{error}; {_roll_call(transport)}") from error
    records = list(_RECORD.iter_unpack(everyone.tobytes()))
    if any(theirs != digest for theirs, _ in records):
        raise TransportError(_difference([json.loads(one) for one in allgather_bytes(transport, told)]))
    return tuple(value for _, value in records)


def _difference(everyone: Sequence[Mapping[str, str]]) -> str:
    """Which facts differ, and between which ranks: each value with the first few ranks that have it."""
    differing = []
    for key in sorted({key for one in everyone for key in one}):
        ranks: dict[str, list[int]] = {}
        for rank, one in enumerate(everyone):
            ranks.setdefault(one.get(key, "nothing"), []).append(rank)
        if len(ranks) > 1:
            found = "; ".join(f"{value} on rank {_listed(of)}" for value, of in ranks.items())
            differing.append(f"{key}: {found}")
    return f"ranks called different collectives: {', '.join(differing)}; all must make the same calls"


def _roll_call(transport: Transport) -> str:
    """Who waits here too and who does not, as far as messages still pass."""
    others = [rank for rank in range(transport.size) if rank != transport.rank]
    word = np.zeros(1, np.uint8)
    answers = {rank: np.empty(1, np.uint8) for rank in others}
    try:
        calls = [transport.isend(word, rank, _ROLL_CALL) for rank in others]
        waiting = {rank: transport.irecv(answer, rank, _ROLL_CALL) for rank, answer in answers.items()}
        end = time.monotonic() + _ANSWER_WITHIN
        while waiting and time.monotonic() < end:
            waiting = {rank: request for rank, request in waiting.items() if not request.done()}
            for call in calls:
                call.done()
            time.sleep(_GLANCE)
    except TransportError as error:
        return f"and nobody can be asked: {error}"
    if not waiting:
        return "all ranks wait in this collective"
    return f"waited for rank {_listed(list(waiting))}"


def _listed(ranks: Sequence[int]) -> str:
    few = ", ".join(map(str, ranks[:8]))
    return few if len(ranks) <= 8 else f"{few} and {len(ranks) - 8} more"
