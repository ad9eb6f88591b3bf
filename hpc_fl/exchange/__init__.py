"""The updates of all parties -> their weighted mean on every rank; or their own buffers, mixed."""

from hpc_fl.exchange.dense import DenseExchange
from hpc_fl.exchange.encoders import Encoder, Plain
from hpc_fl.exchange.exchange import Exchange, Mixed
from hpc_fl.exchange.gossip import GossipExchange
from hpc_fl.exchange.payloads import PayloadExchange
from hpc_fl.exchange.reduced import ReducedExchange

__all__ = [
    "DenseExchange",
    "Encoder",
    "Exchange",
    "GossipExchange",
    "Mixed",
    "PayloadExchange",
    "Plain",
    "ReducedExchange",
]
