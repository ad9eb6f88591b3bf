"""What needs a GPU: training there, and tensors of the device through the transport."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws.training_laws import config, params_of

from hpc_fl.comm.inprocess import run_ranks, solo
from hpc_fl.comm.staging import StagedTransport
from hpc_fl.comm.transport import Transport
from hpc_fl.session import Session
from hpc_fl.telemetry import read_jsonl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("executor", ["loop", "vmap"])
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(tmp_path: Path, executor: str) -> None:
    training: dict[str, Any] = {"epochs": 2, "batch_size": 8, "executor": executor}
    found = {}
    for device in ("cpu", "cuda"):
        session = Session(config(device=device, training=training), solo(), run_dir=tmp_path / device)
        session.run()
        assert params_of(session).device.type == device
        found[device] = params_of(session).cpu()
        assert [r["left_out"] for r in read_jsonl(tmp_path / device / "metrics.jsonl")] == [[]] * 4
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-3, atol=1e-4)


def test_one_seed_one_result_on_the_gpu(tmp_path: Path) -> None:
    results = []
    for name in ("first", "again"):
        session = Session(config(device="cuda"), solo(), run_dir=tmp_path / name)
        session.run()
        results.append(params_of(session).cpu())
    assert torch.equal(*results)


def test_device_tensors_are_summed_through_pinned_memory() -> None:
    def law(transport: Transport) -> None:
        staged = StagedTransport(transport)
        buffer = torch.arange(1000, dtype=torch.float32, device="cuda") * (transport.rank + 1)
        staged.allreduce(buffer)
        assert np.array_equal(buffer.cpu().numpy(), np.arange(1000, dtype=np.float32) * 6)

    run_ranks(3, law)
