"""High-performance federated and decentralised training over MPI.

Names are loaded when they are first used: ``import hpc_fl`` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hpc_fl.config import Config, load_config, make_config
    from hpc_fl.data import ArraySource, Dataset, from_arrays
    from hpc_fl.errors import HpcFlError
    from hpc_fl.federation import Federation, Outcome
    from hpc_fl.flat import FlatModel
    from hpc_fl.session import Result, train

__version__: Final = "0.1.0"

_HOME: Final = {
    "ArraySource": "data",
    "Config": "config",
    "Dataset": "data",
    "Federation": "federation",
    "FlatModel": "flat",
    "HpcFlError": "errors",
    "Outcome": "federation",
    "Result": "session",
    "from_arrays": "data",
    "load_config": "config",
    "make_config": "config",
    "train": "session",
}

__all__ = [
    "ArraySource",
    "Config",
    "Dataset",
    "Federation",
    "FlatModel",
    "HpcFlError",
    "Outcome",
    "Result",
    "__version__",
    "from_arrays",
    "load_config",
    "make_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpc_fl' has no attribute {name!r}")
    return getattr(import_module(f"hpc_fl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
