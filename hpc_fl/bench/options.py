"""What is given to a benchmark as ``key=value``."""

from __future__ import annotations

from collections.abc import Mapping

from hpc_fl.errors import ConfigError


def completed(benchmark: str, usual: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """``given`` over ``usual``. Raises :class:`ConfigError` for an option that is not in ``usual``."""
    if unknown := sorted(given.keys() - usual):
        raise ConfigError(f"bench {benchmark}: got {unknown[0]!r}, expected {', '.join(usual)}")
    return {**usual, **given}


def names(key: str, text: str, known: Mapping[str, object]) -> tuple[str, ...]:
    """Names of ``known`` with commas between them. Raises :class:`ConfigError` for another."""
    found = tuple(filter(None, text.split(",")))
    if bad := [name for name in found if name not in known]:
        raise ConfigError(f"{key}: got {bad[0]!r}, expected of {', '.join(known)}")
    return found


def numbers(key: str, text: str, least: int) -> tuple[int, ...]:
    """Numbers with commas between them; 25e6 is one. Raises :class:`ConfigError` for one below ``least``."""
    try:
        found = tuple(int(float(word)) for word in text.split(",") if word)
    except ValueError:
        found = (least - 1,)
    if any(number < least for number in found):
        raise ConfigError(f"{key}: got {text!r}, expected numbers from {least} on")
    return found


def number(key: str, text: str, least: int) -> int:
    """A single one. Raises :class:`ConfigError` as :func:`numbers` does."""
    if len(found := numbers(key, text, least)) != 1:
        raise ConfigError(f"{key}: got {text!r}, expected a number from {least} on")
    return found[0]
