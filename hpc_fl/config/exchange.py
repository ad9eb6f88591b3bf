"""How updates travel: what is done to them before (the codec), what is kept back, and what carries them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from hpc_fl.config.codecs import Codec, Identity, RandomK
from hpc_fl.config.section import Fraction, Section


class ErrorFeedback(Section):
    """What a payload leaves out of a party's update is added to the party's next one. ``enabled`` null: as
    the codec needs it. ``momentum`` and ``masking``: those of Deep Gradient Compression.
    """

    enabled: bool | None = None
    momentum: Fraction = 0.0
    masking: bool = False


def _switch(value: Any) -> Any:
    """``true``, ``false`` or null as the section that they stand for; options without ``enabled`` switch it
    on.
    """
    if value is None or isinstance(value, bool):
        return {"enabled": value}
    if isinstance(value, dict):
        return {"enabled": True, **value}
    if not isinstance(value, ErrorFeedback):
        raise ValueError(f"got {value!r}, expected true, false, null, or momentum and masking")
    return value


class Exchange(Section):
    """How updates travel. ``collective`` auto: dense for the identity, else allgather."""

    codec: Codec = Identity()
    error_feedback: Annotated[ErrorFeedback, BeforeValidator(_switch)] = ErrorFeedback()
    collective: Literal["auto", "dense", "allgather"] = "auto"

    @property
    def carrier(self) -> str:
        """The collective in use."""
        first: str = self.codec.carried_by[0]
        return first if self.collective == "auto" else self.collective

    @property
    def keeps(self) -> bool | None:
        """Whether error feedback is in use; None for a codec of the user's, which has to be asked."""
        default: bool | None = self.codec.keeps
        return default if self.error_feedback.enabled is None else self.error_feedback.enabled


def exchange_problem(exchange: Exchange) -> str | None:
    """Why the parts of the section do not fit together, as far as the configuration tells."""
    codec, feedback = exchange.codec, exchange.error_feedback
    with_codec = f"with exchange.codec: {codec.name}"
    if exchange.carrier not in codec.carried_by:
        fitting = " or ".join(("auto", *codec.carried_by))
        return f"exchange.collective: got {exchange.collective!r} {with_codec}, expected {fitting}"
    if feedback.enabled and isinstance(codec, Identity):
        return f"exchange.error_feedback: got true {with_codec}, which loses nothing; expected false"
    if feedback.enabled and isinstance(codec, RandomK) and codec.unbiased:
        return (
            f"exchange.error_feedback: got true {with_codec} and exchange.codec.unbiased: true, "
            "each of which makes up for what the other does; expected one of them"
        )
    if feedback.masking and not (feedback.momentum and exchange.keeps is not False):
        return "exchange.error_feedback.masking: got true without exchange.error_feedback.momentum"
    if feedback.masking and not codec.selects:
        return (
            f"exchange.error_feedback.masking: got true {with_codec}, "
            "which chooses no elements; expected false"
        )
    return None
