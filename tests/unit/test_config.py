"""Configuration: what is written comes back; what is wrong is named with what is right."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from hpc_fl.config import Config, dump_config, load_config, make_config
from hpc_fl.config.exchange import Exchange
from hpc_fl.config.gossip import Gossip
from hpc_fl.errors import ConfigError


def test_the_default_is_the_digits_example_and_survives_yaml() -> None:
    config = load_config()
    assert (config.data.name, config.parties, config.partition.name) == ("digits", 10, "dirichlet")
    assert make_config(yaml.safe_load(dump_config(config))) == config


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rounds: 7\nmodel: {name: mlp, hidden: [3]}\ntraining: {optimizer: {lr: 1e-3}}\n")
    config = load_config(path, ["rounds=9", "training.optimizer.momentum=0.9", "strategy=fedyogi"])
    assert config.rounds == 9
    assert config.model.options() == {"hidden": (3,)}
    assert config.training.optimizer.options() == {"lr": 1e-3, "momentum": 0.9}
    assert config.strategy.name == "fedyogi"


def test_naming_another_component_drops_the_keys_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("partition: {name: dirichlet, alpha: 0.1}\n")
    assert load_config(path, ["partition.name=shuffle"]).partition.options() == {}
    assert load_config(path, ["partition.alpha=0.3"]).partition.options()["alpha"] == 0.3


def test_own_code_is_named_with_a_colon() -> None:
    config = load_config(None, ["model=pkg.models:make", "model.args.width=3"])
    assert config.model.name == "pkg.models:make"
    assert config.model.options() == {"args": {"width": 3}}


MISTAKES = [
    (["rnds=3"], ["rnds", "unknown key", "'rounds'"]),
    (["training.optimzer.lr=3"], ["training.optimzer", "'optimizer'"]),
    (["partition.alpa=3"], ["partition.alpa", "'alpha'"]),
    (["training.optimizer.momentumm=3"], ["training.optimizer", "momentumm", "'momentum'"]),
    (["training.optimizer.name=Adaam"], ["training.optimizer", "Adaam", "'Adam'"]),
    (["training.schedule.name=CosineAnealingLR"], ["training.schedule", "'CosineAnnealingLR'"]),
    (["training.schedule.name=StepLR", "training.schedule.gama=1"], ["training.schedule", "gama", "'gamma'"]),
    (["partition.name=dirichlett"], ["partition.name", "dirichlett", "'dirichlet'"]),
    (["strategy=fedadm"], ["strategy.name", "fedadm", "'fedadam'"]),
    (["rounds=abc"], ["rounds", "'abc'", "integer"]),
    (["rounds=0"], ["rounds", "got 0", "greater than or equal to 1"]),
    (["partition.alpha=-1"], ["partition.alpha", "-1", "greater than 0"]),
    (["partition.alpha=.nan"], ["partition.alpha", "nan", "finite"]),
    (["data.name=mnist"], ["data.root", "missing"]),
    (["cohort.name=uniform", "cohort.size=30"], ["cohort.size", "30", "at most 10"]),
    (["cohort.name=fixed", "cohort.rounds=[[0,10]]"], ["cohort.rounds.0", "below 10"]),
    (["model=resnet18", "training.executor=vmap"], ["training.executor", "model.norm"]),
    (["training.loss=mse_"], ["training.loss", "'mse_'"]),
    (["device=gpu"], ["device", "'gpu'"]),
    (["training=3"], ["training", "3"]),
    (["seed=-1"], ["seed", "-1"]),
    (["name=a/b"], ["name", "'a/b'"]),
    (["exchange.codec=topc"], ["exchange.codec.name", "'topc'", "did you mean 'topk'"]),
    (["exchange.codec=topk", "exchange.codec.ration=1"], ["exchange.codec.ration", "did you mean 'ratio'"]),
    (["exchange.codec=topk", "exchange.codec.ratio=2"], ["exchange.codec.ratio", "2"]),
    (["exchange.codec={name: topk, ratio: 0.1, k: 3}"], ["exchange.codec", "either ratio or k"]),
    (["exchange.codec={name: topk, k: 3, segments: true}"], ["segments", "need ratio"]),
    (["exchange.codec={name: onebit, segments: true, block: 8}"], ["either segments or block"]),
    (["exchange.codec=threshold"], ["exchange.codec.eps", "missing"]),
    (["exchange.codec=qsgd", "exchange.codec.width=9"], ["exchange.codec.width", "9"]),
    (["exchange.codec=chain", "exchange.codec.sparsifier=qsgd"], ["exchange.codec.sparsifier.name", "topk"]),
    (["exchange.codec=chain", "exchange.codec.values={name: qsgd, bits: 4}"], ["codec.values.bits", "width"]),
    (["exchange.codec={name: chain, values: {name: onebit, segments: true}}"], ["values.segments"]),
    (["exchange.codec=topk", "exchange.collective=dense"], ["exchange.collective", "exchange.codec: topk"]),
    (["exchange.codec=mine:codec", "exchange.collective=dense"], ["exchange.collective", "mine:codec"]),
    (["exchange.error_feedback=true"], ["exchange.error_feedback", "exchange.codec: identity"]),
    (["exchange.error_feedback.momentum=0.9"], ["exchange.error_feedback", "exchange.codec: identity"]),
    (["exchange.error_feedback=maybe"], ["exchange.error_feedback", "'maybe'"]),
    (
        ["exchange.codec={name: randomk, unbiased: true}", "exchange.error_feedback=true"],
        ["exchange.error_feedback", "exchange.codec.unbiased"],
    ),
    (
        ["exchange.codec=topk", "exchange.error_feedback.masking=true"],
        ["exchange.error_feedback.masking", "exchange.error_feedback.momentum"],
    ),
    (
        ["exchange.codec=onebit", "exchange.error_feedback={momentum: 0.9, masking: true}"],
        ["exchange.error_feedback.masking", "exchange.codec: onebit"],
    ),
    (["lr"], ["'lr'", "key.sub=value"]),
]


@pytest.mark.parametrize(("overrides", "says"), MISTAKES, ids=lambda value: "-".join(value)[:40])
def test_a_mistake_is_named_with_what_is_allowed(overrides: list[str], says: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    message = str(caught.value)
    assert all(word in message for word in says), message


def test_every_mistake_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["rounds=0", "rnds=3"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "says"), [("a: [", "not YAML"), ("- 1", "expected keys"), ("rounds", "expected keys")]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("# nothing\n")
    assert load_config(path) == Config()


def test_without_a_file_overrides_change_the_digits_example() -> None:
    config = load_config(None, ["training.epochs=2", "model.name=mlp"])
    assert config.training.batch_size == load_config().training.batch_size
    assert config.model.options() == {"hidden": (64,)}


def test_every_named_component_has_a_builder() -> None:
    from typing import Any, get_args

    from hpc_fl import build

    def names(field: str, section: type[BaseModel] = Config) -> set[object]:
        union: Any = section.model_fields[field].annotation
        tags = {
            m.model_fields["name"].default
            for m in get_args(union)
            for m in [get_args(m)[0] if get_args(m) else m]
        }
        return {tag for tag in tags if isinstance(tag, str)}

    tables: dict[str, dict[str, Any]] = {
        "data": build.DATASETS,
        "partition": build.PARTITIONS,
        "model": build.MODELS,
        "cohort": build.COHORTS,
        "strategy": {**build.STRATEGIES, **build.GOSSIP},
    }
    for field, table in tables.items():
        assert names(field) == set(table), field
    assert names("codec", Exchange) == {"auto", *build.CODECS}
    topologies = get_args(Exchange.model_fields["topology"].annotation)[0]
    tags = {get_args(member)[1].tag for member in get_args(get_args(topologies)[0])}
    assert tags == {"hierarchical", "file", "custom", *build.TOPOLOGIES}
    methods = get_args(Gossip.model_fields["method"].annotation)
    assert set(methods) == {"auto", "dense", *build.MIXERS}
    collectives = get_args(Exchange.model_fields["collective"].annotation)
    assert set(collectives) == {"auto", *build.EXCHANGES}


ON_BY_DEFAULT = {
    "identity": (False, "dense"),
    "auto": (False, "auto"),
    "fp16": (False, "halves"),
    "bf16": (False, "halves"),
    "topk": (True, "sparse"),
    "{name: topk, k: 7}": (True, "sparse"),
    "randomk": (True, "linear"),
    "{name: randomk, unbiased: true}": (False, "linear"),
    "{name: threshold, eps: 0.1}": (True, "sparse"),
    "onebit": (True, "sharded"),
    "{name: onebit, segments: true}": (True, "allgather"),
    "signsgd": (False, "vote"),
    "qsgd": (False, "sharded"),
    "ternary": (True, "sharded"),
    "{name: ternary, k: 7}": (True, "allgather"),
    "lowrank": (True, "lowrank"),
    "chain": (True, "sharded"),
    "{name: chain, sparsifier: {name: topk, k: 7}}": (True, "allgather"),
    "mine:codec": (None, "allgather"),
}
"""Whether error feedback is on unless it is configured, and the usual collective."""


@pytest.mark.parametrize(("codec", "usual"), ON_BY_DEFAULT.items())
def test_feedback_and_collective_are_what_the_codec_needs(codec: str, usual: tuple[bool | None, str]) -> None:
    exchange = load_config(None, [f"exchange.codec={codec}"]).exchange
    assert (exchange.keeps, exchange.carrier) == usual
    again = load_config(None, [f"exchange.codec={codec}", "exchange.error_feedback=null"]).exchange
    assert again == exchange


@pytest.mark.parametrize("codec", ON_BY_DEFAULT)
def test_what_the_configuration_says_of_a_codec_is_true(codec: str) -> None:
    import torch

    from hpc_fl import build
    from hpc_fl.flat import FlatModel

    exchange = load_config(None, [f"exchange.codec={codec}"]).exchange
    if codec in ("mine:codec", "auto"):
        return
    made = build.make_codec(exchange.codec, FlatModel(torch.nn.Linear(40, 30)), seed=0)
    assert made.name == exchange.codec.name
    assert getattr(made, "selects", False) == exchange.codec.selects
    assert not (exchange.keeps and made.unbiased)


def test_options_of_error_feedback_switch_it_on() -> None:
    exchange = load_config(None, ["exchange.codec=qsgd", "exchange.error_feedback.momentum=0.9"]).exchange
    assert exchange.keeps
    off = ["exchange.codec=topk", "exchange.error_feedback=false"]
    assert load_config(None, off).exchange.keeps is False
