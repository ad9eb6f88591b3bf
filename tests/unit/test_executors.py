"""Local work: what one party computes, however it is computed and whoever is beside it."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpc_fl.data import PartyStore
from hpc_fl.errors import ModelError
from hpc_fl.flat import FlatModel
from hpc_fl.training.batched import VmapExecutor
from hpc_fl.training.batches import LocalSteps, plan_batches
from hpc_fl.training.executor import Executor, LocalWork
from hpc_fl.training.group_batches import width_of
from hpc_fl.training.loop import LoopExecutor, clip_rows_
from hpc_fl.training.losses import CrossEntropy, CustomLoss
from hpc_fl.training.optim import OptimizerSpec
from hpc_fl.training.parties import LocalBuffers

COUNTS = [7, 1, 12, 0, 5, 7]


def store_of(counts: Sequence[int] = COUNTS, shape: tuple[int, ...] = (6,), classes: int = 4) -> PartyStore:
    rng = torch.Generator().manual_seed(1)
    n = sum(counts)
    x, y = torch.randn(n, *shape, generator=rng), torch.randint(0, classes, (n,), generator=rng)
    return PartyStore(x, y, range(10, 10 + len(counts)), counts)


def mlp() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def cnn() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


def work(optimizer: OptimizerSpec | None = None, **changes: object) -> LocalWork:
    job = LocalWork(LocalSteps(4, 2), optimizer or OptimizerSpec(), CrossEntropy(), seed=9)
    return replace(job, **changes)  # type: ignore[arg-type]


def updates(
    executor: Executor, received: Tensor, parties: Sequence[int], **more: object
) -> dict[int, tuple[Tensor, float]]:
    found: dict[int, tuple[Tensor, float]] = {}
    before = received.clone()
    for trained in executor.train(parties, received, 2, **more):  # type: ignore[arg-type]
        for i, party in enumerate(trained.party_ids):
            assert party not in found
            found[party] = (trained.update[i].clone(), float(trained.loss[i]))
            assert trained.samples[i] == COUNTS[party - 10]
    assert torch.equal(received, before), "the received model is not changed"
    assert set(found) == set(parties)
    return found


def by_hand(module: nn.Module, store: PartyStore, job: LocalWork, party: int) -> Tensor:
    """Local SGD with torch's own optimiser over the module's own parameters."""
    initial = [p.detach().clone() for p in module.parameters()]
    optimizer = job.optimizer.make(list(module.parameters()))
    x, y = store[party]
    plan = plan_batches(job.steps, np.array([len(x)]), [party], job.seed, 2)
    for step in range(int(plan.steps[0])):
        rows = torch.from_numpy(plan.rows[step, 0, : plan.sizes[step, 0]])
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        change = torch.cat([(p - q).flatten() for p, q in zip(module.parameters(), initial, strict=True)])
        for p, q in zip(module.parameters(), initial, strict=True):
            p.copy_(q)
    return change


OPTIMIZERS = {
    "sgd": OptimizerSpec("SGD", {"lr": 0.1}),
    "momentum": OptimizerSpec("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": OptimizerSpec("AdamW", {"lr": 0.01}),
    "rmsprop": OptimizerSpec("RMSprop", {"lr": 0.01}),
    "adagrad": OptimizerSpec("Adagrad", {"lr": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_is_plain_torch(name: str) -> None:
    store, module, job = store_of(), mlp(), work(OPTIMIZERS[name])
    flat = FlatModel(module)
    received = flat.values.clone()
    found = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, store.party_ids)
    flat.load(received)
    for party in store.party_ids:
        torch.testing.assert_close(found[party][0], by_hand(module, store, job, party), rtol=1e-5, atol=1e-7)


CHANGES: dict[str, dict[str, object]] = {
    "epochs": {},
    "clipped": {"clip_norm": 0.5},
    "steps": {"steps": LocalSteps(3, steps=7)},
    "whole": {"steps": LocalSteps(None, 2)},
}


@pytest.mark.parametrize(
    ("make", "name", "change"),
    [(mlp, "sgd", c) for c in CHANGES]
    + [(mlp, name, "epochs") for name in list(OPTIMIZERS)[1:]]
    + [(cnn, "momentum", "clipped")],
)
def test_vmap_equals_the_loop(make: Callable[[], nn.Module], name: str, change: str) -> None:
    store = store_of(shape=(1, 6, 6) if make is cnn else (6,))
    flat = FlatModel(make())
    received = flat.values.clone()
    job = work(OPTIMIZERS[name], **CHANGES[change])
    loop = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, store.party_ids)
    vmap = updates(VmapExecutor(flat, store, job), received, store.party_ids)
    for party in store.party_ids:
        # Adagrad and Adam divide by the root of squared gradients: rounding near zero is enlarged.
        torch.testing.assert_close(vmap[party][0], loop[party][0], rtol=1e-3, atol=2e-5)
        assert vmap[party][1] == pytest.approx(loop[party][1], rel=1e-4, abs=1e-6)


class Factorised(nn.Module):
    """x -> x (A B)': the gradient of each factor is made of the other one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left = nn.Parameter(torch.randn(4, 3))
        self.right = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.left @ self.right).T


class Tied(nn.Module):
    """A square matrix that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.square, self.out = nn.Linear(6, 6, bias=False), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.out(self.square(self.square(x).tanh()))
        return hidden


@pytest.mark.parametrize("make", [Factorised, Tied])
def test_parameters_change_together(make: Callable[[], nn.Module]) -> None:
    """A step that changes parameters in place must not use changed ones for the others' gradients."""
    store, flat, job = store_of(), FlatModel(make()), work()
    received = flat.values.clone()
    loop = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, store.party_ids)
    vmap = updates(VmapExecutor(flat, store, job), received, store.party_ids)
    for party in store.party_ids:
        torch.testing.assert_close(vmap[party][0], loop[party][0], rtol=1e-4, atol=1e-6)


def test_groups_are_cut_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpc_fl.training.batched.MAX_PARTIES", 2)
    store, flat, job = store_of(), FlatModel(mlp()), work()
    received = flat.values.clone()
    small = updates(VmapExecutor(flat, store, job), received, store.party_ids)
    loop = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, store.party_ids)
    for party in store.party_ids:
        torch.testing.assert_close(small[party][0], loop[party][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["loop", "vmap"])
def test_a_party_trains_alike_alone_and_among_others(kind: str) -> None:
    store, flat, job = store_of(), FlatModel(mlp()), work()
    received = flat.values.clone()

    def make() -> Executor:
        return (
            VmapExecutor(flat, store, job)
            if kind == "vmap"
            else LoopExecutor(flat, store, job, LocalBuffers(flat))
        )

    together = updates(make(), received, store.party_ids)
    for party in store.party_ids:
        alone = updates(make(), received, [party])
        torch.testing.assert_close(alone[party][0], together[party][0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["loop", "vmap"])
def test_a_gradient_is_minus_the_update_of_one_batch(kind: str) -> None:
    store, module = store_of(), mlp()
    flat, job = FlatModel(module), work(gradient_only=True, steps=LocalSteps(None))
    received = flat.values.clone()
    executor = (
        VmapExecutor(flat, store, job)
        if kind == "vmap"
        else LoopExecutor(flat, store, job, LocalBuffers(flat))
    )
    found = updates(executor, received, [10, 12, 15])
    for party, (update, _) in found.items():
        flat.load(received)
        flat.clear_grads()
        x, y = store[party]
        nn.functional.cross_entropy(module(x), y).backward()
        torch.testing.assert_close(update, -flat.collect_grads(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["loop", "vmap"])
def test_a_correction_changes_every_gradient(kind: str) -> None:
    """FedProx: the gradient of mu/2 |x - received|^2 is added; with a huge mu nobody moves far."""

    def prox(party_ids: Sequence[int], params: Tensor, grads: Tensor, received: Tensor) -> None:
        calls.append(tuple(party_ids))
        grads += 9.0 * (params - received)

    calls: list[tuple[int, ...]] = []
    store, flat, job = store_of(), FlatModel(mlp()), work()
    received = flat.values.clone()
    executor = (
        VmapExecutor(flat, store, job)
        if kind == "vmap"
        else LoopExecutor(flat, store, job, LocalBuffers(flat))
    )
    free = updates(executor, received, [12])[12][0]
    near = updates(executor, received, [12], correction=prox)[12][0]
    assert calls == [(12,)] * 6
    assert 0 < near.norm() < 0.7 * free.norm()


def test_dropout_does_not_depend_on_the_company() -> None:
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 4)))
    store, job = store_of(), work()
    received = flat.values.clone()
    together = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, store.party_ids)
    alone = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, [12])
    assert torch.equal(alone[12][0], together[12][0])


def test_local_buffers_stay_with_their_party() -> None:
    torch.manual_seed(0)
    flat = FlatModel(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), {"1.running_*": "local"})
    store, buffers = store_of([8, 8]), None
    buffers = LocalBuffers(flat)
    executor = LoopExecutor(flat, store, work(), buffers)
    for _ in executor.train([10], flat.values.clone(), 0):
        pass
    state = buffers.state()
    assert list(state) == [10]
    assert state[10]["1.num_batches_tracked"] == 4
    buffers.enter(11)
    assert (flat.module[1].running_mean == 0).all(), "party 11 has never trained: the initial ones"  # type: ignore[index]


def test_half_precision_trains_with_its_master() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).to(torch.bfloat16)
    flat = FlatModel(module)
    store = store_of()
    store = PartyStore(store.x.to(torch.bfloat16), store.y, store.party_ids, store.counts.tolist())
    found = updates(LoopExecutor(flat, store, work(), LocalBuffers(flat)), flat.values.clone(), [10, 12])
    assert all(update.isfinite().all() and update.norm() > 0 for update, _ in found.values())


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), "BatchNorm"),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.1)), "dropout"),
        (nn.Linear(6, 4).to(torch.bfloat16), "float32"),
    ],
)
def test_what_cannot_be_batched_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        VmapExecutor(FlatModel(module), store_of(), work())


def test_control_flow_on_data_is_refused_with_advice() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x)
            return out if out.sum() > 0 else -out

    flat = FlatModel(Odd())
    with pytest.raises(ModelError, match="executor: loop"):
        updates(VmapExecutor(flat, store_of(), work()), flat.values.clone(), [10])


def test_a_users_loss_works_in_both() -> None:
    loss = CustomLoss(
        lambda o, t: nn.functional.cross_entropy(o, t, reduction="none", label_smoothing=0.1), True
    )
    store, flat, job = store_of(), FlatModel(mlp()), work(loss=loss)
    received = flat.values.clone()
    loop = updates(LoopExecutor(flat, store, job, LocalBuffers(flat)), received, [10, 12])
    vmap = updates(VmapExecutor(flat, store, job), received, [10, 12])
    for party in (10, 12):
        torch.testing.assert_close(vmap[party][0], loop[party][0], rtol=1e-4, atol=1e-6)


def test_widths_idle_at_most_a_third() -> None:
    for parties in range(1, 300):
        width = width_of(parties)
        assert parties <= width <= max(parties, 1.5 * parties)
    assert len({width_of(p) for p in range(1, 129)}) <= 14


def test_clipping_scales_only_what_is_longer() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clip_rows_(rows, 1.0)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_schedules_step_once_a_round() -> None:
    spec = OptimizerSpec("SGD", {"lr": 1.0}, "StepLR", {"step_size": 2, "gamma": 0.5})
    assert [spec.learning_rate(r) for r in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_optimisers_that_torch_does_not_have_are_refused() -> None:
    with pytest.raises(ModelError, match="momentumm"):
        OptimizerSpec("SGD", {"lr": 0.1, "momentumm": 0.9})
