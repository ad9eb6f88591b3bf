"""The files of configs/ are valid, run where they need no files, and reach what they promise."""

from pathlib import Path

import pytest

from hpc_fl.config import Config, dump_config, load_config

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
QUIET = ("telemetry.progress=false", "telemetry.tensorboard=false", "telemetry.report=false")


def needs_files(config: Config) -> bool:
    """Whether the user has to bring the data."""
    return "root" in config.data.options()


def test_there_are_configurations() -> None:
    assert FILES, f"no *.yaml in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_valid_and_read_back_equal(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config
    # Runs are kept, and found again by --resume, under the name of the configuration.
    assert config.name == path.stem
    assert path.read_text().startswith("# "), "say first what the configuration is for"


def test_digits_is_what_runs_without_a_configuration() -> None:
    assert load_config(FOLDER / "digits.yaml") == load_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_model_fits_and_every_party_has_samples(path: Path) -> None:
    from hpc_fl import build
    from hpc_fl.comm.inprocess import solo

    config = load_config(path)
    if needs_files(config):
        # Stand-ins of the published shapes and size: only labels are made before a rank asks for rows.
        shape, samples = {"cifar10": ([3, 32, 32], 50_000), "mnist": ([1, 28, 28], 60_000)}[config.data.name]
        data = f"data={{name: synthetic, shape: {shape}, samples: {samples}, classes: 10}}"
        config = load_config(path, [data])
    dataset = build.make_dataset(config)
    sizes = build.make_partition(config, dataset).sizes
    assert len(sizes) == config.parties
    assert sizes.min() > 0
    assert build.make_model(config, dataset, solo(), build.pick_device("cpu", 0), None).n > 0


def test_breast_cancer_reaches_95_percent(tmp_path: Path) -> None:
    from hpc_fl.session import train

    result = train(load_config(FOLDER / "breast_cancer.yaml", QUIET), run_dir=tmp_path / "run")
    assert result.accuracy is not None
    assert result.accuracy >= 0.95
