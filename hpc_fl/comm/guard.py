"""One rank's failure ends the whole job. Standard library only at the top."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from hpc_fl.comm.orphan import no_orphan
from hpc_fl.comm.rollcall import ROLL_FOLDER
from hpc_fl.errors import EXIT_CONFIG, EXIT_FAILURE, ConfigError, HpcFlError, TransportError

if TYPE_CHECKING:
    from hpc_fl.comm.transport import Transport

REPORT_FILE: Final = "HPC_FL_REPORT_FILE"
"""Environment variable: where the first rank that ends the job leaves a report for `launch`: a line with the
exit code, then what to print."""
_INTERRUPTED: Final = 130
_AGREE_WITHIN: Final = 5.0
_LAST_WORDS: Final = 0.3


@contextmanager
def guard(transport: "Transport") -> Iterator[None]:
    """Let no failure inside it leave the other ranks waiting. Collective: every rank must enter it.

    An uncaught exception is printed once, with the rank, and the whole job ends with exit code 1. Errors
    raised on purpose (HpcFlError) are one line instead of a traceback; ConfigError ends with 2,
    KeyboardInterrupt with 130. Where all ranks raise the same one within 5 seconds, rank 0 alone prints it
    and all leave with SystemExit. SystemExit passes when its code is 0, or when all ranks leave with the same
    code within 5 seconds of each other; else it ends the job with that code. Exceptions in other threads of
    this process end the job too, and the death of the launcher ends this rank.
    """
    agreement = transport.dup()
    try:
        with _process_watched(transport):
            yield
    except SystemExit as end:
        code = _code(end)
        if code and not _agreed(agreement, code):
            _end(transport, f"left with exit code {end.code} while other ranks went on", code)
        raise
    except KeyboardInterrupt:
        _end(transport, "interrupted", _INTERRUPTED)
    except HpcFlError as error:
        text, code = _described(error)
        if not _agreed(agreement, _digest(text)):
            _end(transport, text, code)
        if transport.rank == 0:
            sys.stderr.write(f"{text}\n")
        raise SystemExit(code) from error
    except BaseException as error:
        _end(transport, *_described(error))
    agreement.close()


def _described(error: BaseException) -> tuple[str, int]:
    """What to print, and the exit code."""
    if isinstance(error, HpcFlError):
        code = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
        return f"{type(error).__name__}: {error}", code
    return "".join(traceback.format_exception(error)).rstrip(), EXIT_FAILURE


def _end(transport: "Transport", text: str, code: int) -> NoReturn:
    _tell(transport, text, code)
    transport.abort(code)


def _tell(transport: "Transport", text: str, code: int) -> None:
    """Print why this rank ends the job: through the launcher where it listens, as mpirun loses last words."""
    prefix = f"rank {transport.rank}: " if transport.size > 1 else ""
    lines = "".join(f"{prefix}{line}\n" for line in text.splitlines())
    sys.stdout.flush()
    if not leave_report(code, lines):
        sys.stderr.write(lines)  # in one piece, so that ranks do not mix their lines
    sys.stderr.flush()
    if ROLL_FOLDER in os.environ:
        # Under ULFM mpirun drops what other ranks have printed just before an abort: on a loaded machine in 5
        # of 75 jobs, without ULFM and after this time in none.
        time.sleep(_LAST_WORDS)


def leave_report(code: int, text: str) -> bool:
    """Let the launcher end the job with this exit code, and print the text after all that mpirun prints.

    False where there is none, where it runs on another machine, and where another rank was first. For a rank
    that fails before there is a transport; later `guard` does so.
    """
    path = os.environ.get(REPORT_FILE)
    if path is None:
        return False
    draft = Path(f"{path}.{os.getpid()}")
    try:
        draft.write_text(f"{code}\n{text}")
        os.link(draft, path)  # whole or not at all, and only once
    except OSError:
        return False
    return True


def report_left() -> bool:
    """Whether a rank of this machine has left a report."""
    path = os.environ.get(REPORT_FILE)
    return path is not None and Path(path).exists()


@contextmanager
def _process_watched(transport: "Transport") -> Iterator[None]:
    """Let exceptions in other threads end the job, and the launcher's death this rank.

    Ranks that are threads themselves leave their common process alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, threading.excepthook = threading.excepthook, lambda args: _thread_failed(transport, args)
    try:
        with no_orphan() if transport.size > 1 else nullcontext():
            yield
    finally:
        threading.excepthook = before


def _thread_failed(transport: "Transport", args: threading.ExceptHookArgs) -> None:
    if issubclass(args.exc_type, SystemExit):
        return  # as Python has it: this ends the thread only
    error = args.exc_value if args.exc_value is not None else args.exc_type()
    text, code = _described(error)
    _tell(transport, text, code)
    if transport.size == 1:
        os._exit(code)  # nobody else can end a process whose main thread may wait for this one
    transport.abort(code)


def _code(end: SystemExit) -> int:
    """The exit code as Python would give it to the system."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    return EXIT_FAILURE


def _digest(text: str) -> int:
    """A number of 62 bits that stands for the text on every rank."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 2


def _agreed(transport: "Transport", vote: int) -> bool:
    """Whether all ranks leave with this vote: an exit code, or the digest of an error."""
    import numpy as np

    votes = np.array([vote, -vote], np.int64)
    try:
        transport.iallreduce(votes, "min").wait(_AGREE_WITHIN)
    except TransportError:
        return False
    return bool(votes[0] == -votes[1])
