"""How updates travel: what is done to them before (the codec), what is kept back, and what carries them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from hpc_fl.config.codecs import Codec, Identity, RandomK
from hpc_fl.config.gossip import CHANGING, Gossip, Topology
from hpc_fl.config.section import Count, Fraction, Named, Section


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


CollectiveName = Literal[
    "auto", "dense", "halves", "sharded", "sparse", "vote", "linear", "lowrank", "allgather"
]


class Dense(Section):
    """How float32 is added up: by MPI's own allreduce, or one of ours. ``algorithm`` auto: the fastest by a
    short measurement, which is kept for each set of machines.
    """

    algorithm: Literal["auto", "mpi", "ring", "doubling", "twolevel"] = "auto"


class Sparse(Section):
    """How chosen elements are added up. ``scheme`` auto: the exact one that costs least. ``global_k``: of the
    sum, only as many elements as a rank chooses. ``refresh``: rounds for which ``regions`` keeps its bounds.
    """

    scheme: Literal["auto", "gather", "doubling", "split", "regions"] = "auto"
    global_k: bool = False
    refresh: Count = 32


class Exchange(Section):
    """How updates travel. ``collective`` auto: the one that reduces the codec's payloads; allgather where
    none can, and with momentum, which is a party's. ``warmup``: so many rounds travel as float32 first.
    ``topology``: parties keep their own models and mix them with their neighbours'; null: all agree on one.
    """

    codec: Codec = Identity()
    error_feedback: Annotated[ErrorFeedback, BeforeValidator(_switch)] = ErrorFeedback()
    collective: CollectiveName = "auto"
    dense: Dense = Dense()
    sparse: Sparse = Sparse()
    warmup: Annotated[int, Field(ge=0)] = 0
    topology: Topology | None = None
    gossip: Gossip = Gossip()

    @property
    def method(self) -> str:
        """What carries the mixing, where there is a topology."""
        usual: str = self.codec.mixed_by[0]
        return usual if self.gossip.method == "auto" else self.gossip.method

    @property
    def carrier(self) -> str:
        """The collective in use."""
        if self.topology is not None:
            return "gossip"
        if self.collective != "auto":
            return self.collective
        usual: str = self.codec.carried_by[0]
        return "allgather" if self.error_feedback.momentum else usual

    @property
    def keeps(self) -> bool | None:
        """Whether error feedback is in use; None for a codec of the user's, which has to be asked."""
        default: bool | None = self.codec.keeps
        return default if self.error_feedback.enabled is None else self.error_feedback.enabled


def exchange_problem(exchange: Exchange) -> str | None:
    """Why the parts of the section do not fit together, as far as the configuration tells."""
    if exchange.topology is not None:
        return _gossip_problem(exchange, exchange.topology)
    problems = (_idle_problem, _carrier_problem, _feedback_problem, _masking_problem)
    return next(filter(None, (problem(exchange) for problem in problems)), None)


def _idle_problem(exchange: Exchange) -> str | None:
    if exchange.gossip != Gossip():
        given = exchange.gossip.model_dump(exclude_defaults=True)
        return f"exchange.gossip: got {given} without exchange.topology, which it is for; expected a topology"
    return None


def _gossip_problem(exchange: Exchange, topology: Named) -> str | None:
    codec = exchange.codec
    if not codec.mixed_by:
        return (
            f"exchange.codec: got {codec.name!r} with exchange.topology: {topology.name}, which it cannot "
            "mix; expected topk, onebit, bf16 or another that contracts"
        )
    if exchange.method not in codec.mixed_by:
        fitting = " or ".join(("auto", *codec.mixed_by))
        return (
            f"exchange.gossip.method: got {exchange.method!r} with exchange.codec: {codec.name}, "
            f"expected {fitting}"
        )
    if exchange.method == "choco" and topology.name in CHANGING:
        return (
            f"exchange.topology: got {topology.name!r} with exchange.codec: {codec.name}, whose compressed "
            "differences (gossip.method: choco) need the same neighbours in every round; expected "
            "exponential or ring, or exchange.gossip.method: squeeze"
        )
    if exchange.gossip.step is not None and exchange.method in ("dense", "direct"):
        return (
            f"exchange.gossip.step: got {exchange.gossip.step} with gossip.method: {exchange.method}, which "
            "takes whole steps; expected null"
        )
    unused = {
        "collective": exchange.collective != "auto",
        "error_feedback": exchange.error_feedback != ErrorFeedback(),
        "warmup": exchange.warmup > 0,
        "dense": exchange.dense != Dense(),
        "sparse": exchange.sparse != Sparse(),
    }
    if given := [key for key, is_given in unused.items() if is_given]:
        return (
            f"exchange.{given[0]}: given with exchange.topology: {topology.name}, but is for an allreduce; "
            "leave it out (gossip has exchange.gossip)"
        )
    return None


def _carrier_problem(exchange: Exchange) -> str | None:
    codec, carrier = exchange.codec, exchange.carrier
    if carrier not in codec.carried_by:
        fitting = " or ".join(("auto", *codec.carried_by))
        return (
            f"exchange.collective: got {exchange.collective!r} with exchange.codec: {codec.name}, "
            f"expected {fitting}"
        )
    if exchange.error_feedback.momentum and carrier != "allgather":
        return (
            f"exchange.error_feedback.momentum: got {exchange.error_feedback.momentum} with "
            f"exchange.collective: {carrier}, which encodes a rank's sum and knows no party; "
            "expected allgather or auto"
        )
    if exchange.warmup and carrier in ("dense", "allgather"):
        return (
            f"exchange.warmup: got {exchange.warmup} with exchange.collective: {carrier}, "
            "which has no dense rounds to begin with; expected 0"
        )
    return None


def _feedback_problem(exchange: Exchange) -> str | None:
    codec = exchange.codec
    if not exchange.error_feedback.enabled:
        return None
    with_codec = f"with exchange.codec: {codec.name}"
    if isinstance(codec, Identity):
        return f"exchange.error_feedback: got true {with_codec}, which loses nothing; expected false"
    if isinstance(codec, RandomK) and codec.unbiased:
        return (
            f"exchange.error_feedback: got true {with_codec} and exchange.codec.unbiased: true, "
            "each of which makes up for what the other does; expected one of them"
        )
    if exchange.carrier == "halves":
        return (
            f"exchange.error_feedback: got true {with_codec} and exchange.collective: halves, "
            "which rounds on the wire; expected false, or exchange.collective: allgather"
        )
    return None


def _masking_problem(exchange: Exchange) -> str | None:
    feedback = exchange.error_feedback
    if not feedback.masking:
        return None
    if not (feedback.momentum and exchange.keeps is not False):
        return "exchange.error_feedback.masking: got true without exchange.error_feedback.momentum"
    if not exchange.codec.selects:
        return (
            f"exchange.error_feedback.masking: got true with exchange.codec: {exchange.codec.name}, "
            "which chooses no elements; expected false"
        )
    return None
