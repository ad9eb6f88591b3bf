"""The run as frozen, validated data."""

from hpc_fl.config.load import dump_config, load_config, make_config
from hpc_fl.config.run import Config

__all__ = ["Config", "dump_config", "load_config", "make_config"]
