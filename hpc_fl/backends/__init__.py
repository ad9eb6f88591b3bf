"""The compression kernels, whatever runs them: NumPy, C++ on the CPU, CUDA."""

from hpc_fl.backends.backend import Array, Backend
from hpc_fl.backends.choice import backend_of, cpu

__all__ = ["Array", "Backend", "backend_of", "cpu"]
