"""Keeps the tables of docs/guide/configuration.md equal to the configuration's own models.

A table stands between ``<!-- keys: SECTION -->`` and ``<!-- end -->``. Key, type and default are written from
the pydantic models; the last column, the meaning, is written by people and kept.

    python docs/tools/config_table.py            says what is missing or wrong (exit code 1)
    python docs/tools/config_table.py --write    rewrites the tables; new keys get an empty meaning
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpc_fl.config import Config
from hpc_fl.config.section import FunctionName, Named

PAGE: Final = Path(__file__).parents[1] / "guide" / "configuration.md"

_BLOCK: Final = re.compile(r"<!-- keys: (\S+) -->\n(.*?)<!-- end -->", re.DOTALL)
_NAMES: Final[dict[Any, str]] = {
    type(None): "null",
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Path: "path",
}
_BOUNDS: Final = (("ge", ">="), ("gt", ">"), ("lt", "<"), ("le", "<="))


def sections() -> Iterator[tuple[str, str, type[BaseModel]]]:
    """(title, prefix of the keys, model) of every table: ``run``, ``training``, ``strategy/fedavg``, ...

    A model that stands in several places of a section (a codec, alone and in a chain) has one table there.
    """
    yield "run", "", Config
    yield from _inner("", Config, set())


def _inner(
    prefix: str, model: type[BaseModel], seen: set[tuple[str, type[BaseModel]]]
) -> Iterator[tuple[str, str, type[BaseModel]]]:
    for key, field in model.model_fields.items():
        path = f"{prefix}{key}"
        members = dict(_members(field.annotation))
        for tag, member in members.items():
            found = path.partition(".")[0], member
            if found not in seen:
                seen.add(found)
                yield (f"{path}/{tag}" if tag else path), f"{path}.", member
                yield from _inner(f"{path}.", member, seen)


def _members(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """The section models within a type, by their tag (empty where the section has no choice)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif get_origin(annotation) is Annotated and any(isinstance(a, Tag) for a in get_args(annotation)):
        yield next(a.tag for a in get_args(annotation) if isinstance(a, Tag)), get_args(annotation)[0]
    else:
        for part in get_args(annotation):
            yield from _members(part)


def rows(title: str, prefix: str, model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Key -> (type, default) of one table; a choice's ``name`` is in the table's title already."""
    return {
        f"{prefix}{key}": (_type_of(field), _default_of(field))
        for key, field in model.model_fields.items()
        if not ("/" in title and key == "name" and "custom" not in title)
    }


def _type_of(field: FieldInfo) -> str:
    return _text(field.annotation, field.metadata)


def _text(annotation: Any, metadata: list[Any]) -> str:
    """A type as a reader of the page would say it."""
    arguments = get_args(annotation)
    if list(_members(annotation)):
        return "section, see below" + (" or null" if type(None) in arguments else "")
    if (annotation, *metadata) == _plain(FunctionName):
        return "`package.module:function`"
    return _GENERIC.get(get_origin(annotation), lambda _: _simple(annotation, metadata))(annotation)


_GENERIC: Final[dict[Any, Callable[[Any], str]]] = {
    Annotated: lambda a: _text(*_unpacked(a)),
    Literal: lambda a: ", ".join(f"`{value}`" for value in get_args(a)),
    Union: lambda a: " or ".join(_text(part, []) for part in get_args(a)),
    UnionType: lambda a: " or ".join(_text(part, []) for part in get_args(a)),
    tuple: lambda a: f"list of {_text(get_args(a)[0], [])}",
    dict: lambda a: f"map of text to {_text(get_args(a)[1], [])}",
}


def _simple(annotation: Any, metadata: list[Any]) -> str:
    said = _NAMES.get(annotation, "anything")
    bounds = [f"{sign} {_number(getattr(m, b))}" for m in metadata for b, sign in _BOUNDS if hasattr(m, b)]
    patterns = [m.pattern for m in metadata if getattr(m, "pattern", None)]
    matching = f" matching `{patterns[0]}`".replace("|", "\\|") if patterns else ""
    return f"{said} {', '.join(bounds)}".strip() + matching


def _number(bound: float) -> str:
    return {2**31: "2^31", 2**63: "2^63"}.get(int(bound), f"{bound:g}")


def _unpacked(annotation: Any) -> tuple[Any, list[Any]]:
    base, *extras = get_args(annotation)
    flat = [m for extra in extras for m in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
    return base, flat


def _plain(annotation: Any) -> tuple[Any, ...]:
    base, metadata = _unpacked(annotation)
    return (base, *metadata)


def _default_of(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "`{}`"
    if field.default is PydanticUndefined:
        return "needed"
    default = field.default
    if isinstance(default, Named):
        return f"`{default.name}`"
    if isinstance(default, BaseModel):
        return "see below"
    if isinstance(default, Path):
        return f"`{default}`"
    return f"`{json.dumps(default)}`"


def render(page: str) -> str:
    """The page with every table rewritten from the models, meanings kept."""
    known = {title: rows(title, prefix, model) for title, prefix, model in sections()}

    def rewritten(match: re.Match[str]) -> str:
        title, meanings = match[1], _meanings(match[2])
        if title not in known:
            raise SystemExit(f"{PAGE}: no section {title!r}; there are {', '.join(known)}")
        lines = [f"| `{k}` | {t} | {d} | {meanings.get(k, '')} |" for k, (t, d) in known[title].items()]
        table = ["| key | type | default | meaning |", "|---|---|---|---|", *lines]
        return "\n".join(
            (f"<!-- keys: {title} -->", *(table if lines else ["No further keys."]), "<!-- end -->")
        )

    return _BLOCK.sub(rewritten, page)


def _meanings(block: str) -> dict[str, str]:
    found = {}
    for line in block.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            found[cells[0].strip("`")] = cells[3]
    return found


def problems(page: str) -> list[str]:
    """What is wrong with the page, a line each; nothing when it says what the models say."""
    present = {match[1]: match[2] for match in _BLOCK.finditer(page)}
    wrong = [f"section {title} has no table" for title, _, _ in sections() if title not in present]
    wrong += [
        f"{key} has no meaning" for block in present.values() for key, m in _meanings(block).items() if not m
    ]
    if not wrong and render(page) != page:
        wrong.append("a type or a default differs from the code")
    return wrong


def main() -> None:
    """Checks the page, or rewrites it with ``--write``."""
    page = PAGE.read_text()
    if sys.argv[1:] == ["--write"]:
        page = render(page)
        PAGE.write_text(page)
    found = problems(page)
    print("\n".join(found) or "configuration.md agrees with the models")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
