"""Codecs, the wire format and error feedback."""

from hpc_fl.compression.chain import Chain
from hpc_fl.compression.codec import Codec, Kept
from hpc_fl.compression.decode import accumulate, decode
from hpc_fl.compression.error_feedback import ErrorFeedback
from hpc_fl.compression.half import BF16, FP16
from hpc_fl.compression.identity import Identity
from hpc_fl.compression.lowrank import LowRank
from hpc_fl.compression.onebit import OneBit
from hpc_fl.compression.payload import Payload
from hpc_fl.compression.qsgd import QSGD
from hpc_fl.compression.randomk import RandomK
from hpc_fl.compression.signsgd import SignSGD
from hpc_fl.compression.ternary import Ternary
from hpc_fl.compression.threshold import Threshold
from hpc_fl.compression.topk import TopK, WarmUp

__all__ = [
    "BF16",
    "FP16",
    "QSGD",
    "Chain",
    "Codec",
    "ErrorFeedback",
    "Identity",
    "Kept",
    "LowRank",
    "OneBit",
    "Payload",
    "RandomK",
    "SignSGD",
    "Ternary",
    "Threshold",
    "TopK",
    "WarmUp",
    "accumulate",
    "decode",
]
