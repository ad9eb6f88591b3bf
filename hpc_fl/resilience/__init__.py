"""Keeping a run alive: checkpoints that survive a kill, a full disk and another number of ranks."""

from hpc_fl.resilience.checkpoint import CheckpointStore
from hpc_fl.resilience.snapshot import Snapshot

__all__ = ["CheckpointStore", "Snapshot"]
