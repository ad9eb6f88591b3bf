"""Run under mpirun: trains the digits and a transformer of 10 million parameters with every codec, one after
another. Prints a line of JSON for each run from rank 0. Argument: a folder for the runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

from hpc_fl.comm import runtime
from hpc_fl.comm.control import allgather_bytes
from hpc_fl.config import make_config
from hpc_fl.session import Session

CODECS: dict[str, Any] = {
    "identity": {"codec": "identity"},
    "fp16": {"codec": "fp16"},
    "bf16": {"codec": "bf16"},
    "topk": {"codec": {"name": "topk", "ratio": 0.05}},
    "topk, regions": {"codec": {"name": "topk", "ratio": 0.05}, "sparse": {"scheme": "regions"}},
    "topk, global": {"codec": {"name": "topk", "ratio": 0.05}, "sparse": {"global_k": True}},
    "randomk": {"codec": {"name": "randomk", "ratio": 0.2}},
    "threshold": {"codec": {"name": "threshold", "eps": 0.001}},
    "onebit": {"codec": "onebit"},
    "onebit, warm-up": {"codec": "onebit", "warmup": 1},
    "signsgd": {"codec": "signsgd"},
    "qsgd": {"codec": "qsgd"},
    "ternary": {"codec": {"name": "ternary", "ratio": 0.05}},
    "lowrank": {"codec": "lowrank"},
    "chain": {"codec": {"name": "chain", "sparsifier": {"name": "topk", "ratio": 0.05}}},
}
SIGN_STEPS = {"digits": 0.005, "transformer": 0.0005}
"""How far signSGD moves every parameter in a round."""
QUIET = {"progress": False, "tensorboard": False, "report": False}
DIGITS = {
    "rounds": 12,
    "parties": 8,
    "model": {"name": "mlp", "hidden": [32]},
    "training": {"epochs": 2, "batch_size": 16, "executor": "vmap", "optimizer": {"lr": 0.1}},
    "evaluate": {"every": 12, "parties": False},
}
TRANSFORMER = {
    "rounds": 3,
    "parties": 3,
    "data": {"name": "synthetic", "task": "tokens", "shape": [16], "classes": 50, "samples": 96,
             "test_samples": 8},
    "partition": "shuffle",
    "model": {"name": "transformer", "width": 456, "depth": 4, "heads": 4},
    "training": {"steps": 2, "batch_size": 8, "executor": "loop", "optimizer": {"lr": 0.02}},
    "evaluate": {"every": 3, "parties": False},
}  # fmt: skip


def main() -> None:
    transport = runtime.start()
    with runtime.guard(transport):
        for task, base in (("digits", DIGITS), ("transformer", TRANSFORMER)):
            for name, section in CODECS.items():
                folder = Path(sys.argv[1]) / f"{task}-{name}"
                signs = {"codec": {"name": "signsgd", "scale": SIGN_STEPS[task]}}
                exchange = signs if name == "signsgd" else section
                config = make_config(
                    {"name": task, **base, "exchange": exchange, "telemetry": QUIET,
                     "checkpoint": {"every": None, "best": False}}
                )  # fmt: skip
                session = Session(config, transport, run_dir=folder)
                result = session.run()
                params = session.federation.params
                bits = {hash(one) for one in allgather_bytes(transport, params.numpy().tobytes())}
                found = {"task": task, "codec": name, "n": params.numel(), "agree": len(bits) == 1}
                found |= {"accuracy": result.accuracy, "loss": result.loss}
                if transport.rank == 0:
                    sys.stdout.write(f"{json.dumps(found)}\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
