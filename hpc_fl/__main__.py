"""``python -m hpc_fl``: the command line."""

from hpc_fl.cli import main

main()
