"""Errors that hpc_fl raises on purpose, and the exit codes of its command line.

Each error message is one line that says what was found and what to do about it.
"""

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_CONFIG: Final = 2
"""The configuration or the command line cannot be used; no rank was started."""
EXIT_RESUME: Final = 75
"""EX_TEMPFAIL of sysexits.h: the run was stopped by a signal after writing a checkpoint; start it again with
--resume.
"""


class HpcFlError(Exception):
    """Base of every error raised on purpose; printed as one line, without a traceback."""


class ConfigError(HpcFlError):
    """The configuration cannot be used: names the key, the value and what is allowed."""


class DataError(HpcFlError):
    """A data set or a partition cannot be made as asked."""


class ModelError(HpcFlError):
    """A model cannot be built, or cannot be trained as asked."""


class TransportError(HpcFlError):
    """A message or a collective failed, or was called with buffers that it cannot take."""


class TransportTimeout(TransportError):  # noqa: N818 - reads as the event, like TimeoutExpired
    """A wait exceeded its time limit."""


class CheckpointError(HpcFlError):
    """A checkpoint could not be written, or none of those found is intact."""


class CodecError(HpcFlError):
    """A buffer cannot be encoded or decoded as asked: wrong dtype, shape, device or parameter."""


class NotFiniteError(CodecError):
    """An update, or what error feedback kept back, holds a NaN or an infinity; what was kept is as it was."""


class WireError(HpcFlError):
    """A payload is malformed, truncated, altered or of another codec; nothing was written to the output."""


class TopologyError(HpcFlError):
    """A graph or its weights cannot serve for gossip: names the nodes, and says what to change."""
