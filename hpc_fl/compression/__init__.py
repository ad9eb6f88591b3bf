"""Codecs, the wire format and error feedback."""

from hpc_fl.compression.codec import Codec, Kept
from hpc_fl.compression.decode import accumulate, decode
from hpc_fl.compression.identity import Identity
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.topk import TopK, WarmUp

__all__ = ["Codec", "Identity", "Kept", "OneBit", "Payload", "TopK", "WarmUp", "accumulate", "decode"]
