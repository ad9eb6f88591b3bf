"""Optimisers and schedules of the installed torch, read from its source: importing torch takes seconds, and a
mistyped option must be refused before any rank is started.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

_OPTIMIZERS: Final = {
    "ASGD": "asgd",
    "Adadelta": "adadelta",
    "Adafactor": "_adafactor",
    "Adagrad": "adagrad",
    "Adam": "adam",
    "AdamW": "adamw",
    "Adamax": "adamax",
    "Muon": "_muon",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "Rprop": "rprop",
    "SGD": "sgd",
}
"""Class -> file in torch/optim. LBFGS needs a closure and SparseAdam sparse gradients: they are not offered.
"""

MATRIX_WISE: Final = frozenset(("Adafactor", "Muon"))
"""Optimisers that need each parameter's own matrix: parties cannot be trained side by side with them."""

_NO_SCHEDULE: Final = frozenset(("ReduceLROnPlateau", "ChainedScheduler", "SequentialLR", "LRScheduler"))
"""Schedules that need a metric or other schedules."""


def check_options(module: str, name: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for a class or an argument that ``module`` of the installed torch does not have."""
    if module == "torch.optim" and options.keys() <= set(_optimizer(name)):
        return  # one file read instead of thirteen
    known = _optimizers() if module == "torch.optim" else _schedules()
    if name not in known:
        raise ValueError(f"name {name!r} is not one of {', '.join(sorted(known))}{nearest(name, known)}")
    arguments = known[name]
    for option in options:
        if option not in arguments:
            raise ValueError(
                f"{name} has no argument {option!r}; it has {', '.join(arguments)}"
                + nearest(option, arguments)
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where something is near, else nothing."""
    folded = {k.casefold(): k for k in known}
    match = difflib.get_close_matches(name.casefold(), list(folded), 1, 0.6)
    return f"; did you mean {folded[match[0]]!r}?" if match else ""


@cache
def _optimizers() -> dict[str, tuple[str, ...]]:
    found = {name: _optimizer(name) for name in _OPTIMIZERS}
    return {name: arguments for name, arguments in found.items() if arguments}


def _optimizer(name: str) -> tuple[str, ...]:
    """The arguments of a class of torch.optim; none where the installed torch does not have it."""
    file = _OPTIMIZERS.get(name)
    if file is None or not (_folder() / f"{file}.py").exists():
        return ()
    return _classes(file).get(name, ())


@cache
def _schedules() -> dict[str, tuple[str, ...]]:
    found = _classes("lr_scheduler")
    return {k: v for k, v in found.items() if not k.startswith("_") and k not in _NO_SCHEDULE and v}


@cache
def _folder() -> Path:
    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("PyTorch is not installed: pip install torch")
    return Path(spec.submodule_search_locations[0]) / "optim"


@cache
def _classes(file: str) -> dict[str, tuple[str, ...]]:
    """Classes of a file of torch/optim -> the arguments of their constructors, after self and the thing they
    act on.
    """
    found = {}
    for node in ast.parse((_folder() / f"{file}.py").read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                found[node.name] = tuple(a.arg for a in (*item.args.args[2:], *item.args.kwonlyargs))
    return found
