"""Models: functions (input_shape, classes, **options) -> nn.Module with freshly drawn parameters.

input_shape is the shape of one sample's x. For a regression pass classes=1 and use float32 targets of shape
(n, 1). The parameters come from torch's global generator: seed it before, the same on every rank.
"""

from hpc_fl.models.cnn import cnn
from hpc_fl.models.logistic import logistic
from hpc_fl.models.mlp import mlp
from hpc_fl.models.resnet import resnet18
from hpc_fl.models.transformer import transformer

__all__ = ["cnn", "logistic", "mlp", "resnet18", "transformer"]
