"""Codec, error feedback and collective: configuration -> exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hpc_fl import compression
from hpc_fl.build.parts import find, is_custom
from hpc_fl.collectives import Allgather, DenseAllreduce
from hpc_fl.comm.transport import Transport
from hpc_fl.compression import Codec, ErrorFeedback
from hpc_fl.config import Config
from hpc_fl.config.codecs import WarmUp
from hpc_fl.config.exchange import Exchange as ExchangeSection
from hpc_fl.config.section import Named
from hpc_fl.errors import CodecError, ConfigError
from hpc_fl.exchange import DenseExchange, Encoder, Exchange, PayloadExchange, Plain
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
    config: Config, model: FlatModel, strategy: Strategy, transport: Transport, ledger: Ledger
) -> Exchange:
    """The configured way for updates to travel."""
    return EXCHANGES[config.exchange.carrier](config, model, strategy.travels, transport, ledger)


def _dense(
    _: Config, model: FlatModel, names: Sequence[str], transport: Transport, ledger: Ledger
) -> Exchange:
    collective = DenseAllreduce(transport, ledger)
    return DenseExchange(transport, collective, n=model.n, names=names, device=model.device)


def _payloads(
    config: Config, model: FlatModel, names: Sequence[str], transport: Transport, ledger: Ledger
) -> Exchange:
    codec = make_codec(config.exchange.codec, model, config.seed)
    try:
        codec.nbytes(model.n)  # asks for all that depends on n
    except CodecError as error:
        raise ConfigError(f"exchange.codec: {error}") from error
    encoders = {name: make_encoder(config.exchange, codec) for name in names}
    collective = Allgather(transport, ledger)
    return PayloadExchange(transport, codec, encoders, collective, n=model.n, device=model.device)


EXCHANGES: Final = {"dense": _dense, "allgather": _payloads}
"""By collective."""
