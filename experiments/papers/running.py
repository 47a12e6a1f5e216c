"""Running one arm with one seed, which leaves a file `runs/ARM-SEED.json` when it is done.

A run depends on its setup, arm and seed alone, so it can be made in any process, in any order after its teacher's.
"""
import functools
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.common import atomic_write, one_line
from fxgrow.errors import FxgrowError
from fxgrow.experiments import train as training
from fxgrow.experiments.data import Data, load_data
from fxgrow.experiments.papers.declaration import Arm, Experiment, ExperimentError, Network, Scale, get_experiment
from fxgrow.experiments.train import Diverged, TrainConfig, Trainer, Watcher
from fxgrow.graph import Captured
from fxgrow.loops import grow_by_entry, parse_growth, seed_for
from fxgrow.zoo import create_model, init_convolutions, options_for, parse_options

VERSION = 1


@dataclass(frozen=True)
class Setup:
    """The settings that all runs of one result folder have in common.

    Args:
        experiment, scale: names.
        data, root, download: as `load_data` takes them; no name: the scale's own.
        device: as `TrainConfig` takes it.
        out: the result folder.
    """
    experiment: str
    scale: str
    out: Path
    data: str = ""
    root: str | None = None
    download: bool = False
    device: str = "auto"

    @property
    def declared(self) -> Experiment:
        """Return the experiment."""
        return get_experiment(self.experiment)

    @property
    def preset(self) -> Scale:
        """Return the scale."""
        return self.declared.scale(self.scale)

    def conclude(self, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
        """Return sentences on what came out, and the names of figures drawn, beside those that all experiments have."""
        return [], []

    def run(self, arm: Arm, seed: int, watchers: Sequence[Watcher] = ()) -> dict[str, Any]:
        """Run an arm; a setup whose arms are more than one training each has a way of its own."""
        return run(self, arm, seed, watchers)

    def load(self, seed: int) -> Data:
        """Return the data that runs with this seed take."""
        scale = self.preset
        return _load(self.data or scale.data, self.root, self.download, scale.validation, seed, scale.limit)

    def config(self, arm: Arm, data: Data, seed: int) -> TrainConfig:
        """Return the settings of the arm's training; a `fresh` arm grows before it, not during it."""
        student = self.preset.student if arm.teacher else {}
        grow = () if arm.fresh else self.growths(arm, data)
        settings = {**self.preset.settings, **student, **arm.settings}
        if arm.share != 1.0:
            length = "steps" if settings.get("steps") else "epochs"
            settings[length] = max(1, round(arm.share * settings[length]))
        return TrainConfig.of({"device": self.device, **settings, "seed": seed, "grow": grow}, f"arm {arm.key}")

    def growths(self, arm: Arm, data: Data) -> list[str]:
        """Return the arm's growths, with the words of the scale put in."""
        _, places = self.preset.networks[arm.network].on(data.input_shape)
        models = {name: model_word(network, data) for name, network in self.preset.networks.items()
                  if any(f"{{{name}}}" in text for text in arm.grow)}
        return [" ".join(text.format(places=places, **models, **self.preset.words).split()) for text in arm.grow]

    def file(self, arm: Arm, seed: int) -> Path:
        """Return the file of a finished run."""
        return self.out / "runs" / f"{file_name(arm.key)}-{seed}.json"

    def model_file(self, arm: Arm, seed: int) -> Path:
        """Return the file of a run's trained network."""
        return self.out / "models" / f"{file_name(arm.key)}-{seed}.pt"

    def running(self, arm: Arm, seed: int) -> Path:
        """Return the folder of a run until it is finished."""
        return self.out / "running" / f"{file_name(arm.key)}-{seed}"

    def keeps_model(self, arm: Arm) -> bool:
        """Tell if the trained network of an arm is needed later."""
        return arm.key in self.declared.teachers or self.declared.filters

    def keep(self, found: dict[str, Any], arm: Arm, seed: int, model: nn.Module | None) -> dict[str, Any]:
        """Write what came out of a run, its network first if that is needed, and return it."""
        if self.keeps_model(arm) and model is not None:
            self.model_file(arm, seed).parent.mkdir(parents=True, exist_ok=True)
            fxgrow.save(model, self.model_file(arm, seed))
        self.file(arm, seed).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.file(arm, seed)) as file:
            file.write(json.dumps(found, indent=1).encode())
        shutil.rmtree(self.running(arm, seed), ignore_errors=True)
        return found

    def identity(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Return what tells a run from any other: if it is equal, so is the result."""
        data = self.load(seed)
        config = {**self.config(arm, data, seed).to_json(), "grow": self.growths(arm, data)}
        del config["device"]
        teacher = self.identity(self.declared.arm(arm.teacher_key), seed) if arm.teacher else None
        return {"version": VERSION, "data": data.name, "validation": self.preset.validation, "limit": self.preset.limit,
                "network": self.preset.networks[arm.network].on(data.input_shape)[0], "arm": arm.key, "fresh": arm.fresh,
                "config": config, "teacher": teacher}


@functools.lru_cache(maxsize=8)
def _load(name: str, root: str | None, download: bool, validation: float, seed: int, limit: int | None) -> Data:
    return load_data(name, root=root, download=download, validation=validation, seed=seed, limit=limit)


def file_name(key: str) -> str:
    """Return a name of an arm or of data as part of a file's name."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in key)


def model_options(network: Network, data: Data) -> tuple[str, dict[str, Any]]:
    """Return the zoo's name of a network, and the options by which it fits the data."""
    name, _, options = network.on(data.input_shape)[0].partition(":")
    return name, {**options_for(name, data.input_shape, data.classes), **parse_options(options)}


def model_word(network: Network, data: Data) -> str:
    """Return the network as MODEL on the command line, in one word."""
    name, options = model_options(network, data)
    return shlex.quote(f"zoo:{name}:" + ",".join(f"{k}={v!r}".replace(" ", "") for k, v in options.items()))


@functools.lru_cache(maxsize=16)
def untrained(setup: Setup, key: str, seed: int) -> GraphModule:
    """Return an arm's network before training, its teacher not trained either, drawn from the seed. Copy it."""
    arm, data = setup.declared.arm(key), setup.load(seed)
    if arm.teacher:
        teacher = setup.declared.arm(arm.teacher_key)
        return grown_through(untrained(setup, teacher.key, seed), setup.config(teacher, data, seed).grow, data, seed)
    name, options = model_options(setup.preset.networks[arm.network], data)
    torch.manual_seed(seed)
    model = create_model(name, **options)
    gm = training.capture_classifier(model, data.first(training.PROBE), data)
    return redrawn(grown_through(gm, setup.growths(arm, data), data, seed), seed) if arm.fresh else gm


def grown_through(model: GraphModule, growths: Sequence[str], data: Data, seed: int) -> GraphModule:
    """Return the network behind the growths of a schedule, as if none of its steps had been trained."""
    for i, text in enumerate(growths):
        entry, inputs = parse_growth(text), data.first(training.PROBE)
        model = grow_by_entry(model, inputs, entry, seed_for(seed, i)).grown.model  # type: ignore
    return model


def redrawn(model: GraphModule, seed: int) -> GraphModule:
    """Draw all numbers of the layers anew, as the zoo draws them, or raise ExperimentError; what growth noted is dropped."""
    torch.manual_seed(seed)
    for name, layer in model.named_modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise ExperimentError(f"{name or 'the network itself'} holds parameters that cannot be drawn anew: a network "
                                  "grown so has no from-scratch counterpart here")
    init_convolutions(model)
    Captured(model).drop_growth()
    return model


def finished(setup: Setup, arm: Arm, seed: int) -> dict[str, Any] | None:
    """Return what is kept of a run, if it has been made; raise ExperimentError if it is damaged or of another setup."""
    file = setup.file(arm, seed)
    if not file.exists() or (setup.keeps_model(arm) and not setup.model_file(arm, seed).exists()):
        return None
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        identity = _filled(kept["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExperimentError(f"{file} is damaged ({one_line(error)}): delete it, and it is run again") from error
    if identity != _filled(setup.identity(arm, seed)):
        raise ExperimentError(f"{file} is a run with other settings: choose another folder with --out, or delete it")
    return kept


def _filled(identity: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return an identity with all settings: those that are newer than a kept run had their defaults in it."""
    if identity is None:
        return None
    return {**identity, "config": {**TrainConfig().to_json(), **identity["config"]}, "teacher": _filled(identity["teacher"])}


def run(setup: Setup, arm: Arm, seed: int, watchers: Sequence[Watcher] = ()) -> dict[str, Any]:
    """Train one arm with one seed, unless that has been done, and write what came out; that it diverged, too.

    Raises:
        Interrupted: training was asked to stop; a scale with checkpoints goes on from there next time.
    """
    kept = finished(setup, arm, seed)
    if kept is not None:
        return kept
    trainer = _trainer(setup, arm, seed, watchers)
    diverged = None
    try:
        trainer.fit()
    except Diverged as error:  # a result as well: what the network is worth then
        diverged = str(error)
        accuracy = trainer.evaluate(trainer.data.validation)[1]
        trainer.history.rows.append({**trainer.history.rows[-1], "step": trainer.step, "flops": trainer.flops,
                                     "train_loss": None, "val_loss": None, "val_accuracy": accuracy, "event": ""})
    loss, accuracy = trainer.evaluate(trainer.data.test)
    teacher = teacher_run(setup, arm, seed) if arm.teacher else {"flops": 0, "teacher_flops": 0}
    growths = [{k: v for k, v in g.items() if k not in ("explain", "outcomes")} for g in trainer.history.growths]
    found = {"identity": setup.identity(arm, seed), "arm": arm.key, "seed": seed, "rows": trainer.history.rows,
             "growths": growths, "test": {"loss": training.finite_or_none(loss), "accuracy": accuracy}, "diverged": diverged,
             "flops": trainer.flops, "teacher_flops": teacher["flops"] + teacher["teacher_flops"],
             "parameters": trainer.history.rows[-1]["parameters"], "seconds": round(trainer.seconds, 3)}
    return setup.keep(found, arm, seed, trainer.model)


def _trainer(setup: Setup, arm: Arm, seed: int, watchers: Sequence[Watcher]) -> Trainer:
    """Return the trainer of a run, as its last checkpoint left it if there is one."""
    data = setup.load(seed)
    config = setup.config(arm, data, seed)
    folder = setup.running(arm, seed) if setup.preset.checkpoints else None
    if folder is not None and (folder / training.CHECKPOINT_NAME).exists():
        return Trainer.resume(folder, data, watchers=watchers, config=config)
    return Trainer(start_of(setup, arm, seed), data, config, folder, watchers=watchers)


def start_of(setup: Setup, arm: Arm, seed: int) -> nn.Module:
    """Return the network that an arm's training starts with, but for its growths: its trained teacher, if it has one."""
    if arm.teacher:
        return fxgrow.load(setup.model_file(setup.declared.arm(arm.teacher_key), seed))
    return untrained(setup, arm.key, seed)


def teacher_run(setup: Setup, arm: Arm, seed: int) -> dict[str, Any]:
    """Return what is kept of its teacher's run; raise ExperimentError if that has not been made."""
    teacher = finished(setup, setup.declared.arm(arm.teacher_key), seed)
    if teacher is None:
        raise ExperimentError(f"arm {arm.key} starts from {arm.teacher_key}, which has not been run with seed {seed}")
    return teacher


def in_process(setup: Setup, key: str, seed: int) -> None:
    """Run an arm in a worker process, on one thread."""
    torch.set_num_threads(1)
    setup.run(setup.declared.arm(key), seed)


def insist_writable(folder: Path) -> None:
    """Find out before the long work if results can be written into a folder; raise ExperimentError if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / ".writable") as file:
            file.write(b"")
        (folder / ".writable").unlink()
    except (OSError, FxgrowError) as error:
        raise ExperimentError(f"{folder} cannot be written to ({one_line(error)}): choose another with --out") from error
