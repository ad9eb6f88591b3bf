"""What every part of a configuration has in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field

_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Section(BaseModel):
    """A frozen part of a configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(Section):
    """A section that names one of several components; the other keys are that component's own."""

    name: Any

    def options(self) -> dict[str, Any]:
        """The component's arguments: every key but the name."""
        return {k: getattr(self, k) for k in type(self).model_fields if k != "name"} | (
            self.model_extra or {}
        )


def _check_function(text: str) -> str:
    if not _FUNCTION.fullmatch(text):
        raise ValueError("own code is named as package.module:function")
    return text


FunctionName = Annotated[str, AfterValidator(_check_function)]
"""A user's function, ``package.module:function``."""


class Custom(Named):
    """A component from the user's own code: ``name: package.module:function``, called with ``args``."""

    name: FunctionName
    args: dict[str, Any] = {}


def choice(default: str) -> list[Any]:
    """Annotations of a union of :class:`Named` sections, told apart by ``name`` (``default`` where it is not
    given).

    A bare string stands for ``{name: string}``; a name with a colon is the user's own function (tag
    "custom").
    """
    return [Discriminator(_tag(default)), BeforeValidator(expand)]


def expand(value: Any) -> Any:
    """A bare string as the section that it names."""
    return {"name": value} if isinstance(value, str) else value


def _tag(default: str) -> Callable[[Any], str]:
    def tag(value: Any) -> str:
        name = value.get("name", default) if isinstance(value, dict) else getattr(value, "name", None)
        return "custom" if isinstance(name, str) and ":" in name else str(name)

    return tag


Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rule = Literal["mean", "local"]
