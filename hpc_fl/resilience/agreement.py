"""Doing something that may fail on one rank, so that every rank learns of it and none waits for ever."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hpc_fl.comm.control import allgather_bytes, broadcast_bytes
from hpc_fl.errors import CheckpointError

if TYPE_CHECKING:
    from hpc_fl.comm.transport import Transport

T = TypeVar("T")


def on_root(transport: "Transport", action: Callable[[], T]) -> T:
    """Run `action` on rank 0 and return its result, which must be JSON, on every rank.

    Every rank must call it. Raises CheckpointError on every rank when `action` fails.
    """
    reply, error = _attempt(action) if transport.rank == 0 else (None, None)
    outcome = json.loads(broadcast_bytes(transport, reply))
    _raise_any([outcome], error)
    value: T = outcome["value"]
    return value


def on_every(transport: "Transport", action: Callable[[], T]) -> list[T]:
    """Run `action` on every rank and return, on every rank, the results of all by rank; they must be JSON.

    Every rank must call it. Raises CheckpointError on every rank, naming the ranks where `action` failed.
    """
    reply, error = _attempt(action)
    outcomes = [json.loads(data) for data in allgather_bytes(transport, reply)]
    _raise_any(outcomes, error)
    return [outcome["value"] for outcome in outcomes]


def _attempt(action: Callable[[], object]) -> tuple[bytes, Exception | None]:
    try:
        return json.dumps({"value": action(), "error": None}).encode(), None
    except Exception as error:  # whatever it is, the other ranks wait for word of it
        text = str(error) if isinstance(error, (OSError, CheckpointError)) else repr(error)
        return json.dumps({"value": None, "error": text}).encode(), error


def _raise_any(outcomes: list[dict[str, Any]], cause: Exception | None) -> None:
    failed = [f"rank {rank}: {out['error']}" for rank, out in enumerate(outcomes) if out["error"] is not None]
    if failed:
        raise CheckpointError("; ".join(failed)) from cause
