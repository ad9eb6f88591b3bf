"""What is done to an update before it travels: a section for each codec.

The defaults are those of the codecs' own modules in :mod:`hpc_fl.compression`, whose import costs seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag, model_validator

from hpc_fl.config.section import Count, Custom, Named, Positive, Section, choice

Ratio = Annotated[float, Field(gt=0, le=1)]


class _Codec(Named):
    """``carried_by``: the collectives that can carry its payloads, the usual one first; ``reduced_by``: those
    of them that reduce sums of ranks. ``selects``: whether it chooses elements.
    """

    reduced_by: ClassVar[tuple[str, ...]] = ()
    selects: ClassVar[bool] = False

    @property
    def carried_by(self) -> tuple[str, ...]:
        """Those that reduce the sums of ranks, where its options let them, and the one of whole payloads."""
        return (*(self.reduced_by if self.uniform else ()), "allgather")

    @property
    def mixed_by(self) -> tuple[str, ...]:
        """The methods of gossip that can carry its payloads, the usual one first."""
        return ("choco", "squeeze") if self.keeps else ("direct", "choco", "squeeze")

    @property
    def uniform(self) -> bool:
        """Whether it does with any part of a buffer what it does with the whole."""
        return True

    @property
    def keeps(self) -> bool:
        """Whether error feedback is on unless it is configured."""
        return False


class _Lossy(_Codec):
    """A codec whose loss, left alone, would stop the training short."""

    @property
    def keeps(self) -> bool:
        return True


class Identity(_Codec):
    """Float32 as it is."""

    reduced_by: ClassVar[tuple[str, ...]] = ("dense",)

    name: Literal["identity"] = "identity"

    @property
    def mixed_by(self) -> tuple[str, ...]:
        return ("dense",)


class Auto(_Codec):
    """What pays between the run's ranks, by measuring their network and kernels when the run starts."""

    name: Literal["auto"] = "auto"

    @property
    def carried_by(self) -> tuple[str, ...]:
        return ("auto",)

    @property
    def mixed_by(self) -> tuple[str, ...]:
        return ()


class Fp16(_Codec):
    """Half precision."""

    reduced_by: ClassVar[tuple[str, ...]] = ("halves",)

    name: Literal["fp16"] = "fp16"


class Bf16(_Codec):
    """bfloat16."""

    reduced_by: ClassVar[tuple[str, ...]] = ("halves",)

    name: Literal["bf16"] = "bf16"


class WarmUp(Section):
    """The ratio falls exponentially from ``start`` in the first round to its final value after ``rounds``
    rounds.
    """

    rounds: Count = 4
    start: Ratio = 0.25


class _Amount(_Lossy):
    selects: ClassVar[bool] = True

    ratio: Ratio | None = None
    k: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_percent(cls, given: Any) -> Any:
        return {"ratio": 0.01, **given} if isinstance(given, dict) and given.get("k") is None else given

    @model_validator(mode="after")
    def _one_amount(self) -> _Amount:
        if (self.ratio is None) == (self.k is None):
            raise ValueError("give either ratio or k")
        if self.k is not None and (getattr(self, "segments", False) or getattr(self, "schedule", None)):
            raise ValueError("segments and schedule need ratio, not k")
        return self


class TopK(_Amount):
    """The elements of largest magnitude: a share of them (``ratio``), or ``k``; of the whole update, or of
    each of the model's tensors (``segments``).
    """

    reduced_by: ClassVar[tuple[str, ...]] = ("sparse",)

    name: Literal["topk"] = "topk"
    segments: bool = False
    schedule: WarmUp | None = None


class RandomK(_Amount):
    """Elements chosen at random, the same by all parties of a round, without indices. ``unbiased``: scaled so
    that the mean is right on average; then without error feedback.
    """

    reduced_by: ClassVar[tuple[str, ...]] = ("linear",)

    name: Literal["randomk"] = "randomk"
    unbiased: bool = False

    @property
    def keeps(self) -> bool:
        return not self.unbiased


class Ternary(_Amount):
    """Top-k, then the mean magnitude and a sign in place of each value."""

    reduced_by: ClassVar[tuple[str, ...]] = ("sharded",)

    name: Literal["ternary"] = "ternary"
    schedule: WarmUp | None = None

    @property
    def uniform(self) -> bool:
        return self.k is None


class Threshold(_Lossy):
    """The elements of magnitude above ``eps``."""

    selects: ClassVar[bool] = True

    reduced_by: ClassVar[tuple[str, ...]] = ("sparse",)

    name: Literal["threshold"] = "threshold"
    eps: Annotated[float, Field(ge=0)]


class OneBit(_Lossy):
    """Signs times the mean magnitude: of the whole update, of each of the model's tensors (``segments``), or
    of each ``block`` of elements.
    """

    reduced_by: ClassVar[tuple[str, ...]] = ("sharded",)

    name: Literal["onebit"] = "onebit"
    segments: bool = False
    block: Annotated[int, Field(ge=1, lt=2**31)] | None = None

    @model_validator(mode="after")
    def _one_layout(self) -> OneBit:
        if self.segments and self.block is not None:
            raise ValueError("give either segments or block")
        return self

    @property
    def uniform(self) -> bool:
        return not self.segments


class SignSgd(_Codec):
    """Signs times a constant."""

    reduced_by: ClassVar[tuple[str, ...]] = ("vote",)

    name: Literal["signsgd"] = "signsgd"
    scale: Positive = 1.0

    @property
    def mixed_by(self) -> tuple[str, ...]:
        return ()


class Qsgd(_Codec):
    """``width`` bits an element and a scale for each ``block``, rounded at random."""

    reduced_by: ClassVar[tuple[str, ...]] = ("sharded",)

    name: Literal["qsgd"] = "qsgd"
    width: Annotated[int, Field(ge=2, le=8)] = 4
    block: Annotated[int, Field(ge=8, lt=2**31, multiple_of=8)] = 512


class LowRank(_Lossy):
    """Two thin factors of ``rank`` columns for each matrix of the model."""

    reduced_by: ClassVar[tuple[str, ...]] = ("lowrank",)

    name: Literal["lowrank"] = "lowrank"
    rank: Count = 4


class CustomCodec(Custom):
    """A codec from the user's own code: a function that returns it. Whether it needs error feedback is asked
    of it when the run is built (``keeps`` None); which elements it chose cannot be.
    """

    carried_by: ClassVar[tuple[str, ...]] = ("allgather",)
    mixed_by: ClassVar[tuple[str, ...]] = ("choco", "squeeze", "direct")
    selects: ClassVar[bool] = False
    keeps: ClassVar[None] = None


Selection = Annotated[
    Annotated[TopK, Tag("topk")] | Annotated[Threshold, Tag("threshold")],
    *choice("topk"),
]
Values = Annotated[
    Annotated[Fp16, Tag("fp16")]
    | Annotated[Bf16, Tag("bf16")]
    | Annotated[OneBit, Tag("onebit")]
    | Annotated[SignSgd, Tag("signsgd")]
    | Annotated[Qsgd, Tag("qsgd")],
    *choice("qsgd"),
]


class Chain(_Lossy):
    """``sparsifier`` chooses elements, ``values`` makes their values small."""

    selects: ClassVar[bool] = True

    reduced_by: ClassVar[tuple[str, ...]] = ("sharded",)

    name: Literal["chain"] = "chain"
    sparsifier: Selection = TopK(ratio=0.01)
    values: Values = Qsgd()

    @model_validator(mode="after")
    def _no_segments(self) -> Chain:
        if getattr(self.values, "segments", False):
            raise ValueError("values.segments: the chosen values are of no tensor; use values.block")
        return self

    @property
    def uniform(self) -> bool:
        return getattr(self.sparsifier, "k", None) is None and not getattr(self.sparsifier, "segments", False)


Codec = Annotated[
    Annotated[Identity, Tag("identity")]
    | Annotated[Auto, Tag("auto")]
    | Annotated[Fp16, Tag("fp16")]
    | Annotated[Bf16, Tag("bf16")]
    | Annotated[TopK, Tag("topk")]
    | Annotated[RandomK, Tag("randomk")]
    | Annotated[Threshold, Tag("threshold")]
    | Annotated[OneBit, Tag("onebit")]
    | Annotated[SignSgd, Tag("signsgd")]
    | Annotated[Qsgd, Tag("qsgd")]
    | Annotated[Ternary, Tag("ternary")]
    | Annotated[LowRank, Tag("lowrank")]
    | Annotated[Chain, Tag("chain")]
    | Annotated[CustomCodec, Tag("custom")],
    *choice("identity"),
]
