"""Configuration from a YAML file and ``key.sub=value`` settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from hpc_fl.config.explain import explain
from hpc_fl.config.run import Config
from hpc_fl.errors import ConfigError

DIGITS: Final = Path(__file__).with_name("digits.yaml")
"""The configuration that runs where none is given; configs/digits.yaml is a link to it."""


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run: the file (without one, the digits example), then the overrides.

    Overrides are ``training.optimizer.lr=0.05``, their values in YAML; keys that nobody sets have the
    defaults of :class:`Config`. Setting ``section.name`` to another component drops the keys that belonged to
    the one before. Raises :class:`ConfigError` naming the key, what was given, what is allowed.
    """
    tree = _read(DIGITS if path is None else path)
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"{override!r}: expected key.sub=value, e.g. training.optimizer.lr=0.05")
        _set(tree, key.split("."), _parse(value, key))
    return make_config(tree)


def make_config(tree: Mapping[str, Any]) -> Config:
    """The configuration that a nested mapping describes. Raises :class:`ConfigError`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, Config)) from error


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; :func:`load_config` reads it back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file"
        ) from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {where}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got a {type(tree).__name__}, expected keys and values at the top level")
    return tree


def _parse(value: str, key: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: {value!r} is not a YAML value") from error


def _set(tree: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *sections, last = path
    for section in sections:
        inner = tree.get(section)
        if isinstance(inner, str):
            inner = {"name": inner}
        tree[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        tree = inner
    if last == "name" and sections and tree.get("name") not in (None, value):
        tree.clear()
    tree[last] = value
