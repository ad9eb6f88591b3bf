"""What is wrong with a configuration, in one line a mistake: the key, what was given, what is allowed, the
nearest name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from hpc_fl.config.torch_names import nearest

_UNKNOWN: Final = "extra_forbidden"
_TAGS: Final = ("union_tag_invalid", "union_tag_not_found")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each mistake in ``error``, raised by validating ``model``."""
    return "\n".join(dict.fromkeys(_line(item, model) for item in error.errors(include_url=False)))


def _line(item: Any, model: type[BaseModel]) -> str:
    path = _path(item["loc"])
    kind = item["type"]
    if kind == _UNKNOWN:
        known = _keys_beside(model, item["loc"])
        return f"{path}: unknown key; allowed here: {', '.join(known)}{nearest(str(item['loc'][-1]), known)}"
    if kind in _TAGS:
        given = item["input"].get("name") if isinstance(item["input"], dict) else item["input"]
        known = [tag.strip("'") for tag in item["ctx"]["expected_tags"].split(", ") if tag != "'custom'"]
        return f"{path}.name: got {given!r}, expected one of {', '.join(known)}{nearest(str(given), known)}"
    if kind == "missing":
        return f"{path}: missing; this key is needed"
    message = str(item["msg"]).removeprefix("Value error, ")
    if not path:
        return message  # a pairing: the message names the keys itself
    if kind == "value_error":
        return f"{path}: {message}"
    return f"{path}: got {item['input']!r}, expected {_expected(message)}"


def _expected(message: str) -> str:
    for prefix in ("Input should be a valid ", "Input should be "):
        message = message.removeprefix(prefix)
    return message.replace(", unable to parse string as an integer", "").replace(
        ", unable to parse string as a number", ""
    )


def _path(loc: Sequence[str | int]) -> str:
    """The dotted key path.

    Union members leave their tag behind the key, which is not part of what the user wrote.
    """
    return ".".join(str(part) for part in _without_tags(loc))


def _without_tags(loc: Sequence[str | int]) -> Iterator[str | int]:
    for index, part in enumerate(loc):
        is_tag = index and loc[index - 1] in _CHOICES and isinstance(part, str)
        if not is_tag and not str(part).startswith(("literal[", "function-")):
            yield part


_CHOICES: Final = frozenset(
    ("data", "partition", "model", "cohort", "strategy", "codec", "sparsifier", "values")
)


def _keys_beside(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys allowed in the section that holds ``loc``."""
    section: type[BaseModel] = model
    for index, part in enumerate(loc[:-1]):
        members = (
            list(_models(section.model_fields[str(part)].annotation))
            if str(part) in section.model_fields
            else []
        )
        tag = loc[index + 1] if index + 1 < len(loc) else None
        chosen = [m for m in members if "name" in m.model_fields and m.model_fields["name"].default == tag]
        custom = [m for m in members if m.__name__ == "Custom"] if tag == "custom" else []
        section = next(iter(chosen or custom or members), section)
    return list(section.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section classes within a (possibly annotated, possibly union) type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
