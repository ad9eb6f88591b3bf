"""Codecs and the wire format."""

from hpc_fl.compression.codec import Codec
from hpc_fl.compression.identity import Identity
from hpc_fl.compression.payload import Payload

__all__ = ["Codec", "Identity", "Payload"]
