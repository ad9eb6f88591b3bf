"""The CUDA backend on the interpreter, as a subject of the kernels' laws."""

from pathlib import Path

import numpy as np
from laws.kernel_checks import Subject
from simt.interpreter import Interpreter, Order

from hpc_fl.backends.checks import Checked
from hpc_fl.backends.cuda import Cuda


def subject_on(launcher: Interpreter) -> Subject:
    return Subject(Checked(Cuda(launcher), np.ndarray), lambda x: x.copy(), lambda x: x)


def subject(folder: Path, order: Order = Order.FORWARD, seed: int = 1) -> Subject:
    return subject_on(Interpreter(folder, order, seed))
