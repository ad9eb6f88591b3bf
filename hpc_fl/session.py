"""A run from beginning to end: transport, objects, run folder, round loop, report."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from hpc_fl import build
from hpc_fl.comm import runtime
from hpc_fl.comm.control import broadcast_bytes
from hpc_fl.comm.runtime import StopSignals
from hpc_fl.comm.transport import Transport
from hpc_fl.config import Config, load_config, make_config
from hpc_fl.config.strategies import DECENTRALISED
from hpc_fl.data import Dataset
from hpc_fl.errors import ConfigError
from hpc_fl.federation import Federation, Outcome, Plan
from hpc_fl.metrics import RoundRecords
from hpc_fl.resilience import CheckpointStore
from hpc_fl.rundir import GIVEN, RunFolder, continued, new_folder, newest_folder
from hpc_fl.telemetry.events import Notice, RunFinished, RunStarted
from hpc_fl.telemetry.jsonl import JsonlSink
from hpc_fl.telemetry.ledger import Ledger
from hpc_fl.telemetry.progress import ProgressSink
from hpc_fl.telemetry.recorder import Recorder, Sink
from hpc_fl.telemetry.spans import Spans
from hpc_fl.telemetry.tensorboard import TensorBoardSink
from hpc_fl.telemetry.trace import Trace
from hpc_fl.topology import Schedule
from hpc_fl.training.parties import LocalBuffers

if TYPE_CHECKING:
    from mpi4py import MPI


@dataclass(frozen=True)
class Result:
    """What a run gives back on every rank: the model with the final values, the scores, the folder (None
    where none was kept).
    """

    model: nn.Module
    outcome: Outcome
    run_dir: Path | None

    @property
    def accuracy(self) -> float | None:
        """On held-out samples, at the end; None for regression."""
        return None if self.outcome.scores is None else self.outcome.scores.accuracy

    @property
    def loss(self) -> float:
        """On held-out samples, at the end."""
        return float("nan") if self.outcome.scores is None else self.outcome.scores.loss


def train(
    config: Config | None = None,
    *,
    model: Callable[[], nn.Module] | None = None,
    dataset: Dataset | Callable[[], Dataset] | None = None,
    comm: MPI.Comm | None = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
) -> Result:
    """Runs a federation; under mpirun or srun every rank must call it with equal arguments.

    ``model`` and ``dataset`` take the place of the configuration's own: a function that makes a module, a
    data set (or a function that makes one). ``comm``: the communicator to duplicate, COMM_WORLD under a
    launcher if not given. ``run_dir``: where to leave the run's files, by default a new folder under
    ``config.runs``. ``resume``: go on from the newest checkpoint in ``run_dir``, if it has one.

    Raises :class:`HpcFlError` on every rank, or ends the whole job with the failing rank's traceback: no rank
    is left waiting.
    """
    config = config or load_config()
    transport = runtime.start(comm, config.comm.timeout, config.comm.transport)
    # Alone, an error goes to the caller; among ranks it must end the job before the others wait for this one.
    with runtime.guard(transport) if transport.size > 1 else nullcontext():
        runtime.set_threads(transport, config.comm.threads)
        with StopSignals() as signals:
            session = Session(config, transport, model=model, dataset=dataset, run_dir=run_dir, resume=resume)
            result = session.run(signals)
            session.close()
        transport.close()
    return result


class Session:
    """The objects of one run on this rank, made in the order in which they need each other.

    Every rank must make it, with equal arguments, and call :meth:`run`. See :func:`train` for the arguments.
    """

    def __init__(
        self,
        config: Config,
        transport: Transport,
        *,
        model: Callable[[], nn.Module] | None = None,
        dataset: Dataset | Callable[[], Dataset] | None = None,
        run_dir: Path | str | None = None,
        resume: bool = False,
    ) -> None:
        objects = {"model": model, "data": dataset}
        self._given = tuple(name for name, one in objects.items() if one is not None)
        self._folder, config = _agree_on_folder(config, transport, run_dir, resume, self._given)
        self._config, self._transport = config, transport
        device = build.pick_device(config.device, transport.local_rank)
        dataset = dataset() if callable(dataset) else dataset
        self.parties = build.make_parties(config, dataset or build.make_dataset(config), transport, device)
        self._trace = Trace(transport.rank) if config.trace else None
        self.ledger, self._spans = Ledger(), Spans(self._trace)
        self._records = RoundRecords(transport, self.ledger, self._spans)
        self._notes: list[str] = []
        self._model = build.make_model(config, self.parties.dataset, transport, device, model)
        config, self._why_codec = build.settle_codec(config, self._model, transport)
        self._config = config
        self._buffers = LocalBuffers(self._model)
        self.cohort = build.make_cohort(config, self.parties.partition)
        self._work = build.make_work(config, build.make_loss(config, self.parties.dataset))
        self._executor, self.executor_choice = build.make_executor(
            config, self._model, self.parties.store, self._work, self._buffers, transport, self.cohort
        )
        self.schedule = self._agreed_schedule()
        self._checkpoints = CheckpointStore(
            self._folder.checkpoints, config.checkpoint.keep, warn=self._notes.append
        )
        snapshot = self._checkpoints.read(transport, self.parties.store.party_ids) if resume else None
        if resume and snapshot is None:
            self._notes.append(f"no checkpoint in {self._folder.path}: starting from the first round")
        after = snapshot.round if snapshot else None
        self._recorder = Recorder(self._sinks(after) if transport.rank == 0 else [])
        self.federation = self._assemble()
        if snapshot is not None:
            self.federation.restore(snapshot)

    def _assemble(self) -> Federation:
        config = self._config
        site = build.Site(
            model=self._model,
            parties=self.parties,
            work=self._work,
            cohort=self.cohort,
            executor=self._executor,
            buffers=self._buffers,
            transport=self._transport,
            ledger=self.ledger,
            spans=self._spans,
        )
        return Federation(
            plan=Plan(config.rounds, config.evaluate.every, config.checkpoint.every, config.checkpoint.best),
            transport=self._transport,
            model=self._model,
            rounds=build.make_rounds(config, site, self.schedule),
            checkpoints=self._checkpoints,
            recorder=self._recorder,
            records=self._records,
            spans=self._spans,
        )

    def _agreed_schedule(self) -> Schedule | None:
        """Who mixes with whom; None where all parties agree on one model."""
        if self._config.exchange.topology is None:
            return None
        strategy = build.make_decentralised(self._config)
        return build.make_schedule(self._config, strategy, self._transport, self.parties.placement)

    def _sinks(self, after_round: int | None) -> list[Sink]:
        config, folder, wanted = self._config, self._folder, self._config.telemetry
        training = config.training.model_copy(update={"executor": self.executor_choice.name})
        facts = {
            "transport": self._transport.name,
            "ranks": self._transport.size,
            "threads": torch.get_num_threads(),
            GIVEN: list(self._given),
        }
        folder.create(config.model_copy(update={"training": training}), facts)
        if self.schedule is not None:
            hosts = {party: rank for rank, ids in enumerate(self.parties.placement) for party in ids}
            ranks = [hosts[party] for party in range(config.parties)]
            folder.topology.write_text(json.dumps({**self.schedule.describe(), "ranks": ranks}))
        sinks: list[Sink] = [JsonlSink(folder.metrics, after_round)]
        if _wanted(wanted.tensorboard, "tensorboard"):
            sinks.append(TensorBoardSink(folder.tensorboard))
        if wanted.progress:
            sinks.append(ProgressSink())
        return sinks

    def run(self, signals: StopSignals | None = None) -> Result:
        """Every rank must call it. ``signals``: those noted since an earlier moment; None: from now on."""
        if signals is None:
            with StopSignals() as own:
                return self.run(own)
        with self._recorder:
            self._recorder.emit(self._started())
            for note in self._notes:
                self._recorder.emit(Notice(note))
            self._notes.clear()
            outcome = self.federation.run(signals)
            self._write_trace()
            reason = "completed" if outcome.stopped is None else f"stopped by {outcome.stopped}"
            peak = f"{_peak_megabytes(self._transport):.0f} MB"
            summary = self._records.savings() | {"peak memory of a rank": peak}
            self._recorder.emit(RunFinished(reason, outcome.rounds_done, outcome.seconds, summary))
        if self._transport.rank == 0 and _wanted(self._config.telemetry.report, "matplotlib"):
            from hpc_fl.report import write_report

            write_report(self._folder.path)
        return Result(self._model.module, outcome, self._folder.path)

    def close(self) -> None:
        """Frees what is held for further rounds. Every rank must call it."""
        self.federation.rounds.close()

    def _started(self) -> RunStarted:
        config, sizes = self._config, self.parties.partition.sizes
        if self._transport.size == 1 and config.exchange.carrier in build.REDUCTIONS:
            self._notes.append(
                f"one rank: nothing travels, so {config.exchange.codec.name} encodes nothing; "
                "exchange.collective=allgather encodes each party's update"
            )
        if self.schedule is not None and config.strategy.name not in DECENTRALISED:
            self._notes.append(
                f"{config.strategy.name} without a server is D-PSGD: every party counts alike, whatever its "
                "samples"
            )
        idle = sum(not ids for ids in self.parties.placement)
        if idle:
            self._notes.append(
                f"{idle} of {self._transport.size} ranks host no party: they only take part in exchanges"
            )
        if self.federation.round >= config.rounds:
            self._notes.append(
                f"all {config.rounds} rounds are done already: ask for more with rounds={config.rounds * 2}"
            )
        facts = {
            **({} if self.schedule is None else {"topology": _described(self.schedule)}),
            "data": f"{self.parties.dataset.name}, {sizes.min()} to {sizes.max()} samples a party",
            "partition": config.partition.name,
            "model": type(self._model.module).__name__ if "model" in self._given else config.model.name,
            "strategy": config.strategy.name,
            "codec": config.exchange.codec.name + (f" ({self._why_codec})" if self._why_codec else ""),
            "executor": f"{self.executor_choice.name} ({self.executor_choice.reason})",
            "transport": self._transport.name,
            "device": str(self._model.device),
            "threads": str(torch.get_num_threads()),
        }
        return RunStarted(
            config.name,
            self._folder.path,
            self._transport.size,
            config.parties,
            self._model.n,
            self.federation.round + 1,
            config.rounds,
            facts,
        )

    def _write_trace(self) -> None:
        if self._trace is None:
            return
        self._trace.write(self._folder.trace(self._transport.rank))
        self._transport.barrier()
        if self._transport.rank == 0:
            ranks = [self._folder.trace(rank) for rank in range(self._transport.size)]
            Trace.merge(ranks, self._folder.trace())


def _described(schedule: Schedule) -> str:
    rounds = schedule.rounds_to_consensus()
    promise = "no promise of consensus" if rounds is None else f"1/1000 of the distance in {rounds} rounds"
    return f"{schedule.name} (spectral gap {schedule.spectral_gap():.3g}, {promise})"


def _peak_megabytes(transport: Transport) -> float:
    """Peak resident memory of the rank that needed most; every rank must call it."""
    peak = np.array([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024])
    transport.allreduce(peak, "max")
    return float(peak[0])


def _wanted(asked: bool | None, package: str) -> bool:
    """What was asked for; if nothing was, whether the optional package is installed."""
    return find_spec(package) is not None if asked is None else asked


def _agree_on_folder(
    config: Config, transport: Transport, run_dir: Path | str | None, resume: bool, given: Sequence[str]
) -> tuple[RunFolder, Config]:
    """Rank 0's choice of folder, and the configuration to run there, on every rank."""
    answer = None
    if transport.rank == 0:
        folder, config = _choose_folder(config, run_dir, resume, given)
        answer = json.dumps([str(folder.path.absolute()), config.model_dump(mode="json")]).encode()
    path, tree = json.loads(broadcast_bytes(transport, answer))
    return RunFolder(Path(path)), make_config(tree)


def _choose_folder(
    config: Config, run_dir: Path | str | None, resume: bool, given: Sequence[str]
) -> tuple[RunFolder, Config]:
    folder = None if run_dir is None else RunFolder(Path(run_dir))
    if not resume:
        if folder is not None and folder.config.exists():
            raise ConfigError(
                f"--run-dir: {folder.path} holds a run; add --resume to go on with it, or choose another"
            )
        return folder or new_folder(config), config
    folder = folder or newest_folder(config.runs, config.name)
    if folder is None:
        raise ConfigError(
            f"--resume: no run named {config.name!r} in {config.runs}; give its folder with --run-dir"
        )
    return folder, continued(folder, config, given) if folder.config.exists() else config
