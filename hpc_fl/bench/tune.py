"""``hpc-fl bench collectives --tune``: which codec and collective to use for a model in the present world."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hpc_fl.errors import ConfigError

if TYPE_CHECKING:
    from hpc_fl.collectives.cost import CodecChoice, Shapes, World
    from hpc_fl.comm.transport import Transport

_N: Final = "25000000"
_WIDTH: Final = 130


def tune(settings: Sequence[str], ranks: int | None) -> int:
    """Measures the world that launched this process and prints the choice, or starts ``ranks`` ranks that do;
    the exit code.

    ``settings``: a configuration file and settings that override it, for its model; else ``n=25e6`` for a
    transformer of n parameters. Raises :class:`ConfigError` for a process alone, as it has no network.
    """
    from hpc_fl.comm import launch, runtime

    if runtime.launched() is None and ranks is None:
        raise ConfigError(
            "--tune: there is only this process: give the number of ranks with -n, or start it by mpirun or "
            "srun on the machines that are to be measured"
        )
    if runtime.launched() is None:
        program = [sys.executable, "-m", "hpc_fl", "bench", "collectives", "--tune", *settings]
        return launch.launch(ranks or 1, program)
    if ranks is not None:
        raise ConfigError("-n: mpirun or srun started this process already; leave -n out")
    _tune_here(settings)
    return 0


def _tune_here(settings: Sequence[str]) -> None:
    """Every rank must call it."""
    from hpc_fl.collectives.cost import choose_codec
    from hpc_fl.collectives.probe import measure_world
    from hpc_fl.comm import runtime

    transport = runtime.start()
    with runtime.guard(transport):
        runtime.set_threads(transport, None)
        what, n, shapes = _model(settings, transport)
        world = measure_world(transport)
        choice = choose_codec(world, n, shapes)
        if transport.rank == 0:
            _print(f"{what}, {n} parameters", transport.name, world, choice)


def _model(settings: Sequence[str], transport: Transport) -> tuple[str, int, Shapes]:
    """What to call it, its size, and the shapes of its tensors."""
    files = [word for word in settings if "=" not in word]
    if not files:
        return _transformer(settings)
    import torch

    from hpc_fl import build
    from hpc_fl.config import load_config

    if len(files) > 1:
        raise ConfigError(f"--tune: {files[1]!r}: one configuration file is enough")
    config = load_config(Path(files[0]), [word for word in settings if "=" in word])
    dataset = build.make_dataset(config)
    model = build.make_model(config, dataset, transport, torch.device("cpu"), None)
    segments = (*model.segments, *model.buffer_segments)
    return f"model of {files[0]}", model.n, tuple(segment.shape for segment in segments)


def _transformer(settings: Sequence[str]) -> tuple[str, int, Shapes]:
    from hpc_fl.bench.collective_cases import transformer_shapes

    given = dict(word.split("=", 1) for word in settings)
    try:
        n = int(float(given.pop("n", _N)))
    except ValueError:
        n = 0
    if given or n < 1:
        raise ConfigError(f"--tune: got {' '.join(settings)}, expected a configuration file or n=25e6")
    return "transformer", n, transformer_shapes(n)


def _print(model: str, carrier: str, world: World, choice: CodecChoice) -> None:
    from rich.console import Console
    from rich.table import Table

    # mpirun gives its ranks a terminal of no width.
    console = Console(highlight=False, width=_WIDTH, color_system=None)
    link = world.link
    console.print(
        f"{model}; {world.ranks} ranks, {carrier}: latency {link.latency * 1e6:.3g} us, "
        f"{8 * link.bandwidth / 1e9:.3g} Gbit/s each way",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    titles = (
        "codec",
        "collective",
        "encode",
        "decode",
        "bytes",
        "computing",
        "predicted",
        "over dense",
        "pays below",
    )
    for column, title in enumerate(titles):
        table.add_column(title, justify="left" if column < 2 else "right", no_wrap=True)
    dense = choice.forecasts[0]
    for one in choice.forecasts:
        kernel, options = world.kernels[one.candidate.codec], one.candidate.options
        named = " ".join([one.candidate.codec, *(f"{key}={value}" for key, value in options.items())])
        table.add_row(
            named, one.candidate.collective, f"{kernel.encode * 1e9:.2f} ns", f"{kernel.decode * 1e9:.2f} ns",
            f"{one.work.nbytes / 1e6:.3f} MB", f"{one.work.computing * 1e3:.2f} ms",
            f"{one.seconds * 1e3:.2f} ms", f"x {dense.seconds / one.seconds:.2f}" if one.seconds else "",
            "" if one is dense else f"{one.break_even * 8e-9:.3g} Gbit/s",
        )  # fmt: skip
    console.print(table)
    console.print(f"use {choice.why}", soft_wrap=True)
    console.print(
        "All but identity change the optimisation: see docs/algorithms/codecs.md, error-feedback.md",
        soft_wrap=True,
    )
