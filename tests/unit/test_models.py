"""Laws of the models: shapes, published sizes, gradients, determinism, vmap, causality, clear refusals."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from hpc_fl.errors import ModelError
from hpc_fl.models import cnn, logistic, mlp, resnet18, transformer

Make = Callable[[], nn.Module]
IMAGE = (2, 8, 8)
IMAGE_MODELS: dict[str, Make] = {
    "logistic": lambda: logistic(IMAGE, 5),
    "mlp": lambda: mlp(IMAGE, 5),
    "deep mlp": lambda: mlp(IMAGE, 5, hidden=(8, 7)),
    "no hidden mlp": lambda: mlp(IMAGE, 5, hidden=()),
    "cnn": lambda: cnn(IMAGE, 5, channels=(3, 4), hidden=6),
    "padded cnn": lambda: cnn(IMAGE, 5, channels=(3,), kernel=5, padding=2, hidden=6),
    "resnet18 group": lambda: resnet18(IMAGE, 5, norm="group", width=8),
}
TOKEN_MODELS: dict[str, Make] = {
    "transformer": lambda: transformer((6,), 5, width=8, heads=2),
    "untied transformer": lambda: transformer((6,), 5, width=8, heads=2, depth=1, tied=False),
}
MODELS = IMAGE_MODELS | TOKEN_MODELS


def batch(name: str, size: int) -> tuple[Tensor, Tensor]:
    if name in TOKEN_MODELS:
        return torch.randint(5, (size, 6)), torch.randint(5, (size, 6))
    return torch.randn(size, *IMAGE), torch.randint(5, (size,))


def loss_of(model: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (x,))
        return cross_entropy(logits.flatten(0, -2), y.flatten())

    return loss


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 3])
def test_logits_have_one_row_per_label(name: str, size: int) -> None:
    x, y = batch(name, size)
    assert MODELS[name]()(x).shape == (*y.shape, 5)


@pytest.mark.parametrize("name", MODELS)
def test_the_seed_makes_the_parameters(name: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(7)
        made.append(parameters_of(MODELS[name]()))
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])
    assert all(value.dtype == torch.float32 for value in made[0].values())


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    gradients = grad(loss_of(model))(parameters_of(model), *batch(name, 8))
    assert all(gradient.abs().sum() > 0 for gradient in gradients.values())


@pytest.mark.parametrize("name", MODELS)
def test_parties_at_once_under_vmap_are_parties_one_by_one(name: str) -> None:
    # In float64: normalised groups of two channels magnify rounding.
    torch.manual_seed(0)
    model, parties = MODELS[name]().double(), 3
    stacked = {
        key: value + 0.01 * torch.randn(parties, *value.shape) for key, value in parameters_of(model).items()
    }
    x, y = (torch.stack(part) for part in zip(*(batch(name, 4) for _ in range(parties)), strict=True))
    x = x.double() if x.is_floating_point() else x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = vmap(grad(loss_of(model)))(stacked, x, y)
    for party in range(parties):
        alone = grad(loss_of(model))(
            {key: value[party] for key, value in stacked.items()}, x[party], y[party]
        )
        for key, value in alone.items():
            torch.testing.assert_close(together[key][party], value)


def test_an_untrained_model_is_undecided() -> None:
    torch.manual_seed(0)
    logits = transformer((6,), 50)(torch.randint(50, (4, 6)))
    assert (
        abs(cross_entropy(logits.flatten(0, 1), torch.randint(50, (24,))).item() - torch.tensor(50.0).log())
        < 0.5
    )


def test_published_sizes() -> None:
    assert count(logistic((1, 28, 28), 10)) == 7850
    assert count(cnn((3, 32, 32), 10)) == 1_626_442
    assert count(resnet18((3, 32, 32), 10)) == 11_173_962
    assert count(resnet18((3, 32, 32), 10, norm="group")) == 11_173_962


def test_resnet_keeps_statistics_only_with_batch_norm() -> None:
    assert len(list(resnet18(IMAGE, 5, width=8).buffers())) == 3 * 20
    assert not list(resnet18(IMAGE, 5, width=8, norm="group").buffers())
    assert resnet18(IMAGE, 5, width=8)(torch.randn(2, *IMAGE)).shape == (2, 5)
    assert resnet18(IMAGE, 5, width=5, norm="group")(torch.randn(1, *IMAGE)).shape == (1, 5)


def test_dropout_acts_in_training_only() -> None:
    model, x = cnn(IMAGE, 5, channels=(3,), dropout=0.5), torch.randn(4, *IMAGE)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_token_changes_no_logits_before_it() -> None:
    torch.manual_seed(0)
    model = transformer((6,), 5, width=8, heads=2)
    x = torch.randint(5, (2, 6))
    for t in range(6):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 5
        difference = (model(x) - model(changed)).abs().amax(dim=(0, 2))
        assert difference[:t].sum() == 0
        assert torch.all(difference[t:] > 0)


def test_a_transformer_takes_any_length_up_to_its_context() -> None:
    model = transformer((6,), 5, width=8, heads=2, context=9, vocabulary=7)
    for length in (1, 6, 9):
        assert model(torch.zeros(2, length, dtype=torch.int64)).shape == (2, length, 7)
    with pytest.raises(ModelError, match="context=9"):
        model(torch.zeros(2, 10, dtype=torch.int64))


def test_a_tied_transformer_has_one_matrix_less() -> None:
    tied, untied = (transformer((6,), 50, width=8, heads=2, tied=tied) for tied in (True, False))
    assert count(untied) - count(tied) == 50 * 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: logistic((4,), 0), "classes=0"),
        (lambda: mlp((4,), 2, hidden=(3, 0)), r"hidden=\[3, 0\]"),
        (lambda: cnn((4,), 2), "use mlp or logistic"),
        (lambda: cnn((1, 5, 9), 2), "leave 1 of 5 pixels.* 6 pixels a side"),
        (lambda: cnn((1, 1, 1), 2, padding=1), "2 pixels a side"),
        (lambda: cnn((1, 9, 9), 2, channels=()), "needs channels"),
        (lambda: cnn((1, 9, 9), 2, dropout=1.0), "dropout"),
        (lambda: cnn((1, 9, 9), 2, kernel=0), "kernel"),
        (lambda: resnet18((8, 8), 2), "channels, height, width"),
        (lambda: resnet18(IMAGE, 2, norm="layer"), "use one of batch, group"),
        (lambda: resnet18(IMAGE, 2, width=0), "width"),
        (lambda: transformer((4, 4), 2), "tokens of shape"),
        (lambda: transformer((4,), 2, width=10, heads=4), "use width=12"),
        (lambda: transformer((4,), 2, depth=0), "depth"),
        (lambda: transformer((4,), 9, vocabulary=8), "vocabulary=9"),
        (lambda: transformer((4,), 9, context=3), "context=4"),
    ],
)
def test_sizes_that_cannot_be_built_say_what_would_fit(make: Make, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        make()


def test_the_smallest_image_a_cnn_accepts_works() -> None:
    assert cnn((1, 6, 6), 2)(torch.randn(1, 1, 6, 6)).shape == (1, 2)
    assert cnn((1, 2, 2), 2, padding=1)(torch.randn(1, 1, 2, 2)).shape == (1, 2)
