"""A user's model with BatchNorm, named in configurations as laws.batchnorm:make."""

from torch import nn


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
