"""Codec, error feedback and collective: configuration -> exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hpc_fl import compression
from hpc_fl.build.parts import find, is_custom
from hpc_fl.collectives import (
    Allgather,
    AutoDense,
    Compressed,
    DenseAllreduce,
    DenseFirst,
    Doubling,
    Linear,
    LowRankMean,
    Reduction,
    Ring,
    Sharded,
    Sparse,
    Summed,
    TwoLevel,
    Vote,
)
from hpc_fl.collectives.cost import choose_codec
from hpc_fl.collectives.probe import measure_world
from hpc_fl.collectives.summed import MakeCollective
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Codec, ErrorFeedback
from hpc_fl.config import Config, make_config
from hpc_fl.config.codecs import WarmUp
from hpc_fl.config.exchange import Exchange as ExchangeSection
from hpc_fl.config.section import Named
from hpc_fl.errors import CodecError, ConfigError
from hpc_fl.exchange import DenseExchange, Encoder, Exchange, PayloadExchange, Plain, ReducedExchange
from hpc_fl.flat import FlatModel, Segment
from hpc_fl.strategies import Strategy
from hpc_fl.telemetry.ledger import Ledger

CODECS: Final[dict[str, Callable[..., Codec]]] = {
    "identity": compression.Identity,
    "fp16": compression.FP16,
    "bf16": compression.BF16,
    "topk": compression.TopK,
    "randomk": compression.RandomK,
    "threshold": compression.Threshold,
    "onebit": compression.OneBit,
    "signsgd": compression.SignSGD,
    "qsgd": compression.QSGD,
    "ternary": compression.Ternary,
    "lowrank": compression.LowRank,
    "chain": compression.Chain,
}
_ALSO: Final[dict[str, Callable[[FlatModel, int], dict[str, Any]]]] = {
    "randomk": lambda _, seed: {"seed": seed},
    "qsgd": lambda _, seed: {"seed": seed},
    "lowrank": lambda model, seed: {"shapes": tuple(s.shape for s in _segments(model)), "seed": seed},
}
"""What some codecs are given besides their options: the run's seed, the model's shapes."""


def settle_codec(config: Config, model: FlatModel, transport: Transport) -> tuple[Config, str | None]:
    """The configuration with a codec in place of ``auto``, and why it is that one. Every rank must call it.

    Takes less than a second. Raises :class:`ConfigError` where the codec found does not go with the rest.
    """
    if config.exchange.codec.name != "auto":
        return config, None
    shapes = tuple(segment.shape for segment in _segments(model))
    found = choose_codec(measure_world(transport), model.n, shapes)
    tree = config.model_dump(mode="json")
    tree["exchange"]["codec"] = {"name": found.codec, **found.options}
    return make_config(tree), found.why


def make_codec(section: Named, model: FlatModel, seed: int) -> Codec:
    """The configured codec, for buffers of the model's size. Raises :class:`ConfigError` for options that do
    not fit the model.
    """
    if is_custom(section):
        codec: Codec = find(section.name, "exchange.codec.name")(**section.options()["args"])
        return codec
    options = {key: _argument(key, value, model, seed) for key, value in section.options().items()}
    also = _ALSO[section.name](model, seed) if section.name in _ALSO else {}
    try:
        return CODECS[section.name](**options, **also)
    except CodecError as error:
        raise ConfigError(f"exchange.codec: {error}") from error


def _argument(key: str, value: Any, model: FlatModel, seed: int) -> Any:
    """What stands for an option in a codec's own terms."""
    if isinstance(value, Named):
        return make_codec(value, model, seed)
    if isinstance(value, WarmUp):
        return compression.WarmUp(**value.model_dump())
    if key == "segments":
        return tuple(segment.stop - segment.start for segment in _segments(model)) if value else None
    return value


def _segments(model: FlatModel) -> tuple[Segment, ...]:
    return (*model.segments, *model.buffer_segments)


def make_encoder(section: ExchangeSection, codec: Codec) -> Encoder:
    """Error feedback around the codec, or the codec alone. Raises :class:`ConfigError` for a pairing that
    makes no sense.
    """
    # Of a codec of the user's the configuration knows nothing.
    keeps = not codec.unbiased if section.keeps is None else section.keeps
    if not keeps:
        return Plain(codec)
    options = section.error_feedback
    try:
        return ErrorFeedback(codec, momentum=options.momentum, masking=options.masking)
    except CodecError as error:
        raise ConfigError(f"exchange.error_feedback with exchange.codec: {codec.name}: {error}") from error


def make_exchange(
    config: Config,
    model: FlatModel,
    strategy: Strategy,
    transport: Transport,
    ledger: Ledger,
    hosted: Sequence[int],
) -> Exchange:
    """The configured way for updates to travel; ``hosted``: the parties of this rank. Every rank must call
    it.
    """
    world = _World(model, strategy.travels, transport, ledger, hosted)
    return EXCHANGES[config.exchange.carrier](config, world)


@dataclass(frozen=True)
class _World:
    """What exchanges are made of besides the configuration."""

    model: FlatModel
    names: Sequence[str]
    transport: Transport
    ledger: Ledger
    hosted: Sequence[int]


def _dense(config: Config, world: _World) -> Exchange:
    collective = DENSE[config.dense_algorithm](world.transport, world.ledger)
    model = world.model
    exchange = DenseExchange(world.transport, collective, n=model.n, names=world.names, device=model.device)
    if isinstance(collective, AutoDense):
        collective.choice(exchange.length)  # measured now rather than in the first round
    return exchange


def _payloads(config: Config, world: _World) -> Exchange:
    codec, model = fitting_codec(config, world.model), world.model
    encoders = {name: make_encoder(config.exchange, codec) for name in world.names}
    collective = Allgather(world.transport, world.ledger)
    return PayloadExchange(world.transport, codec, encoders, collective, n=model.n, device=model.device)


def _reduced(config: Config, world: _World) -> Exchange:
    codec, model = fitting_codec(config, world.model), world.model
    reductions = {name: _reduction(config, codec, world) for name in world.names}
    return ReducedExchange(
        world.transport, reductions, world.ledger, n=model.n, hosted=world.hosted, device=model.device
    )


def _reduction(config: Config, codec: Codec, world: _World) -> Reduction:
    """The configured reduction, after the configured rounds as float32."""
    section = config.exchange
    options = section.sparse.model_dump() if section.carrier == "sparse" else {}
    compressed = REDUCTIONS[section.carrier](
        world.transport, world.ledger, codec, feedback=bool(section.keeps), mean=False, **options
    )
    if not section.warmup:
        return compressed
    plain = Summed(
        world.transport,
        world.ledger,
        compression.Identity(),
        feedback=False,
        mean=False,
        dense=DENSE[config.dense_algorithm],
    )
    return DenseFirst(plain, compressed, section.warmup)


def fitting_codec(config: Config, model: FlatModel) -> Codec:
    """The configured codec, which can encode the model's buffer. Raises :class:`ConfigError`."""
    codec = make_codec(config.exchange.codec, model, config.seed)
    try:
        codec.nbytes(model.n)  # asks for all that depends on n
    except CodecError as error:
        raise ConfigError(f"exchange.codec: {error}") from error
    return codec


DENSE: Final[dict[str, MakeCollective]] = {
    "auto": AutoDense,
    "mpi": DenseAllreduce,
    "ring": Ring,
    "doubling": Doubling,
    "twolevel": TwoLevel,
}
"""By algorithm: what adds up float32."""

REDUCTIONS: Final[dict[str, Callable[..., Compressed]]] = {
    "halves": Summed,
    "sharded": Sharded,
    "sparse": Sparse,
    "vote": Vote,
    "linear": Linear,
    "lowrank": LowRankMean,
}
"""By collective: what reduces the sums of ranks."""

EXCHANGES: Final[dict[str, Callable[[Config, _World], Exchange]]] = {
    "dense": _dense,
    "allgather": _payloads,
    **dict.fromkeys(REDUCTIONS, _reduced),
}
"""By collective."""
