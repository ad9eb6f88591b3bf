"""What a run tells about itself: byte ledger, phase timer, trace, events and the sinks that show or keep
them.
"""

from hpc_fl.telemetry.events import (
    CheckpointWritten,
    Event,
    Notice,
    PartyLeftOut,
    RoundFinished,
    RunFinished,
    RunStarted,
)
from hpc_fl.telemetry.jsonl import EVENTS_FILE, JsonlSink, read_jsonl
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.telemetry.progress import ProgressSink
from hpc_fl.telemetry.recorder import Recorder, Sink
from hpc_fl.telemetry.spans import PHASES, Spans
from hpc_fl.telemetry.tensorboard import TensorBoardSink
from hpc_fl.telemetry.totals import Totals
from hpc_fl.telemetry.trace import Trace

__all__ = [
    "EVENTS_FILE",
    "PHASES",
    "CheckpointWritten",
    "Event",
    "JsonlSink",
    "Ledger",
    "Notice",
    "PartyLeftOut",
    "ProgressSink",
    "Recorder",
    "RoundFinished",
    "RunFinished",
    "RunStarted",
    "Sink",
    "Spans",
    "TensorBoardSink",
    "Totals",
    "Trace",
    "read_jsonl",
]
