"""The command line. Only what a command needs is imported: torch takes seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hpc_fl.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, EXIT_RESUME, ConfigError, HpcFlError

if TYPE_CHECKING:
    from hpc_fl.config import Config

app = typer.Typer(
    name="hpc-fl",
    help="Federated and decentralised training over MPI.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hpc-fl {version('hpc_fl')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [key.sub=value ...]", help="A YAML file, and settings that override it."
    ),
]


@app.command()
def train(
    settings: Settings = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--ranks",
            min=1,
            help="Start this many ranks with mpirun; without it, join the world that launched this.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder for this run (default: runs/NAME-DATE-TIME).")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the newest checkpoint in --run-dir, or in the newest run of that name.",
        ),
    ] = False,
    no_ulfm: Annotated[
        bool,
        typer.Option(
            "--no-ulfm",
            help="With -n: let mpirun kill all ranks when one dies, instead of telling the others (ULFM).",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the resolved configuration and the command; start nothing."),
    ] = False,
) -> None:
    """Train. Without a configuration: 10 parties on scikit-learn's digits.

    Exit codes: 0 done, 1 failed, 2 bad input (nothing was started), 75 stopped by a signal after a checkpoint
    (run again with --resume).
    """
    from hpc_fl.comm import runtime

    if no_ulfm and ranks is None:
        raise ConfigError("--no-ulfm: this goes with -n; for your own mpirun leave --with-ft out")
    if resume and run_dir is None and not _files(settings):
        run_dir = _newest_run(settings)
    config = _load(settings, run_dir if resume else None)
    ulfm = None if config.comm.transport in runtime.HEARS_OF_DEATHS and not no_ulfm else False
    program = [sys.executable, "-m", "hpc_fl", "train", *_arguments(settings, run_dir, resume)]
    if dry_run:
        _print_plan(config, program, ranks, ulfm)
    elif ranks is None:
        _train_here(config, run_dir, resume)
    elif runtime.launched() is not None:
        raise ConfigError(
            "-n: mpirun or srun started this process already; leave -n out, or start hpc-fl without them"
        )
    else:
        raise typer.Exit(_start_ranks(config, run_dir, ranks, program, ulfm))


@app.command()
def doctor() -> None:
    """Show what was found on this machine, and what to do about what is missing."""
    from hpc_fl.doctor import print_doctor

    print_doctor()


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Write RUN_DIR/report.html: one file with all plots."""
    from hpc_fl.report import write_report

    typer.echo(write_report(run_dir))


@app.command()
def data(
    settings: Settings = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the picture here (PNG, SVG or PDF).")
    ] = None,
) -> None:
    """Show which party has how many samples of each label."""
    from rich.console import Console

    from hpc_fl import build
    from hpc_fl.data import picture

    config = _load(settings)
    dataset = build.make_dataset(config)
    matrix = picture.label_matrix(dataset.train, build.make_partition(config, dataset))
    Console().print(picture.table(matrix))
    if output is not None:
        picture.draw(matrix, output)
        typer.echo(output)


@app.command()
def config(settings: Settings = None) -> None:
    """Print the resolved configuration."""
    from hpc_fl.config import dump_config

    typer.echo(dump_config(_load(settings)), nl=False)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(help="kernels, collectives, gossip, round, accuracy, convergence, startup or memory"),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[option=value ...]",
            help="The benchmark's own options; with --tune: [CONFIG.yaml] [key.sub=value ...].",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, where the benchmark has a choice.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a bar does not hold.")] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="collectives: measure the present network and kernels, and say which codec to use and why.",
        ),
    ] = False,
    ranks: Annotated[
        int | None, typer.Option("-n", "--ranks", min=1, help="With --tune: start so many with mpirun.")
    ] = None,
) -> None:
    """Measure this installation against a yardstick in the same run; print the table and whether each bar
    holds.
    """
    from hpc_fl.bench import run_benchmark

    if tune:
        raise typer.Exit(_tune(name, settings or [], ranks))
    if ranks is not None:
        raise ConfigError("-n: this goes with --tune; benchmarks take their number of ranks as an option")
    where = [] if device is None else [f"device={device}"]
    held = run_benchmark(name, [*(settings or []), *where], json_file)
    if strict and not held:
        raise typer.Exit(EXIT_FAILURE)


def _tune(name: str, settings: list[str], ranks: int | None) -> int:
    if name != "collectives":
        raise ConfigError(f"--tune: got bench {name}, expected bench collectives")
    from hpc_fl.bench.tune import tune

    return tune(settings, ranks)


def _load(settings: list[str] | None, resumed: Path | None = None) -> Config:
    """The configuration that the command line describes; without a file, that of the run to resume."""
    from hpc_fl.config import load_config

    files = _files(settings)
    if len(files) > 1:
        raise ConfigError(
            f"{files[1]!r}: one configuration file is enough; settings are written key.sub=value"
        )
    path = Path(files[0]) if files else None
    if path is None and resumed is not None and (resumed / "config.yaml").exists():
        path = resumed / "config.yaml"
    return load_config(path, [word for word in settings or [] if "=" in word])


def _files(settings: list[str] | None) -> list[str]:
    return [word for word in settings or [] if "=" not in word]


def _newest_run(settings: list[str] | None) -> Path:
    """The newest run in the runs folder, of the name that is set, if one is."""
    from hpc_fl.rundir import newest_folder

    asked = _load(settings)
    named = any(word.startswith("name=") for word in settings or [])
    newest = newest_folder(asked.runs, asked.name if named else None)
    if newest is None:
        which = f"run named {asked.name!r}" if named else "run"
        raise ConfigError(f"--resume: no {which} in {asked.runs}; give its folder with --run-dir")
    return newest.path


def _start_ranks(
    config: Config, run_dir: Path | None, ranks: int, program: list[str], ulfm: bool | None
) -> int:
    from hpc_fl.comm import launch, runtime

    runtime.check_installed(config.comm.transport)
    began = time.time()
    code = launch.launch(ranks, program, ulfm=ulfm)
    if code not in (EXIT_OK, EXIT_CONFIG, EXIT_RESUME):
        _say_how_to_go_on(config, run_dir, ranks, began)
    return code


def _say_how_to_go_on(config: Config, run_dir: Path | None, ranks: int, began: float) -> None:
    """After a failure: the command that goes on from the newest checkpoint of this run, if it has one."""
    from hpc_fl.resilience.layout import rounds
    from hpc_fl.rundir import RunFolder, newest_folder

    folder = newest_folder(config.runs, config.name) if run_dir is None else RunFolder(run_dir)
    if folder is None or not folder.config.exists() or folder.config.stat().st_mtime < began:
        return
    if found := rounds(folder.checkpoints):
        command = f"hpc-fl train -n {ranks} --run-dir {folder.path} --resume"
        typer.echo(f"hpc-fl: to go on from round {found[-1]}, once the cause is gone: {command}", err=True)


def _arguments(settings: list[str] | None, run_dir: Path | None, resume: bool) -> list[str]:
    options = [] if run_dir is None else ["--run-dir", str(run_dir)]
    return [*(settings or []), *options, *(["--resume"] if resume else [])]


def _print_plan(config: Config, program: list[str], ranks: int | None, ulfm: bool | None) -> None:
    import shlex

    from hpc_fl.comm import launch
    from hpc_fl.config import dump_config

    typer.echo(dump_config(config))
    typer.echo(shlex.join(program if ranks is None else launch.mpirun_command(ranks, program, ulfm=ulfm)))


def _train_here(config: Config, run_dir: Path | None, resume: bool) -> None:
    import gc

    # Imports make half a million lasting objects: searching them for garbage costs 0.3 s now, and a pause of
    # 0.1 s now and then in the round loop.
    gc.disable()
    from hpc_fl.session import train as run

    gc.freeze()
    gc.enable()
    if run(config, run_dir=run_dir, resume=resume).outcome.stopped:
        raise typer.Exit(EXIT_RESUME)


def _fail(error: HpcFlError) -> NoReturn:
    """Prints the error once, however many ranks have it, and ends with its exit code."""
    from hpc_fl.comm.guard import leave_report, report_left
    from hpc_fl.comm.runtime import launched

    launch = launched()
    code = EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILURE
    text = "".join(f"hpc-fl: {line}\n" for line in str(error).splitlines())
    # Under ULFM mpirun would wait for ever where only some ranks fail.
    if not leave_report(code, text) and not report_left() and (launch is None or launch.rank == 0):
        typer.echo(text, err=True, nl=False)
    sys.exit(code)


def main() -> None:
    """Entry point of ``hpc-fl``."""
    try:
        app()
    except HpcFlError as error:
        _fail(error)
