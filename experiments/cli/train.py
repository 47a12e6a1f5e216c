"""`fxgrow train`: a model, data and settings from the command line or a TOML file, and the report."""
from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fxgrow import loops
from fxgrow.cli import json_option, options_of, print_json, print_table, status
from fxgrow.common import atomic_write, quantity
from fxgrow.errors import FxgrowError
from fxgrow.experiments import train as training  # whose names load torch when they are first used
from fxgrow.experiments.cli.seeds import side_by_side, summary
from fxgrow.experiments.settings import TrainError, read_toml
from fxgrow.experiments.train import Run, TrainConfig

REPORT, SEEDS = "report.json", "seeds.json"
RESUMED = {"device", "workers", "lr", "clip"}  # what may be another one from a checkpoint on


def _with_settings(command: click.Command) -> click.Command:
    """Give a command an option for each setting of a run; `-o` is that of the other commands."""
    own = {o.name: o for o in (*options_of(Run), *options_of(TrainConfig))}
    for field in dataclasses.fields(TrainConfig):
        if isinstance(field.default, tuple) and field.default:
            own[field.name].help += f"  [default: {', '.join(map(str, field.default))}]"  # type: ignore[operator]
    del own["model"]
    own["out"].opts.append("-o")
    command.params += [own.pop(name) for name in ("data", "epochs", "steps", "grow", "out")] + list(own.values())
    return command


@_with_settings
@click.command(epilog="\b\nExamples:\n  fxgrow train zoo:cifar_resnet18:r=2**-3 --data digits --epochs 4 "
               "--grow 'epoch=2: widen factor=2 method=r2r' -o runs/x\n  fxgrow train --resume runs/x\n  "
               "fxgrow train zoo:gpt:width=64 --data stdlib --steps 500 --optimizer adamw --lr 3e-3 "
               "--grow 'step=250: deepen method=net2net'\n  "
               "fxgrow train zoo:mlp --data digits --schedule wsd --grow auto\n  fxgrow train run.toml --lr 0.01 -o runs/y")
@click.argument("model", required=False)
@click.option("--resume", metavar="DIR", help="Go on with the run in DIR from its last checkpoint, with its own "
              "settings; --device, --workers, --lr and --clip may change.")
@click.option("--seeds", type=click.IntRange(min=1), metavar="N", help="Make the run N times, from --seed on, each in "
              "DIR/seed-K; the same command goes on with those that have not ended.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="With --seeds: so many at a time, in "
              "processes that share the cores.")
@click.option("--stacked", is_flag=True, help="With --seeds: networks of one structure take their steps together, as one "
              "(torch.func), which a GPU does faster where they are small.")
@click.option("--dry-run", is_flag=True, help="Say what it would cost, try the growths out, and train nothing.")
@json_option
def train(model: str | None, resume: str | None, seeds: int | None, jobs: int, stacked: bool, dry_run: bool,
          as_json: bool, **options) -> None:
    """Train MODEL, which grows on the way.

    MODEL is as elsewhere, or a TOML file with the settings (`model` among them), which options override. zoo:NAME gets
    its number of classes and its input from the data.

    A growth is `WHEN [OPTION=VALUE ...]: PASS [OPTION=VALUE ...] [+ PASS ...]`, with WHEN one of epoch=E, step=S,
    fraction=F (of all steps), plateau=P (P evaluations without a lower validation loss) and slope=S (the training loss
    falls by less than S for each FLOP); or it is `auto [max_size=TIMES] [max_flops=N] [until=F] [: PASS ...]`, which grows
    whenever a bigger network promises more for a FLOP: deeper where blocks stand in a row, else wider, if no PASS is
    said. Options: lr=constant|ratio|parts|rewarm|restart, decay=constant|ratio|parts, optimizer=migrate|reset,
    freeze=STEPS, noise=SHARE, rewarm=STEPS, new=, old=, decay_new=, decay_old=FACTOR, window=, min_delta=. `fxgrow passes`
    lists the passes and theirs.
    """
    if seeds is not None:
        if resume is not None or dry_run or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise click.UsageError("--seeds makes whole runs of one process each: leave out --resume, --dry-run, torchrun")
        if stacked and jobs > 1:
            raise click.UsageError("--stacked makes all runs in one process: leave out --jobs")
        _many(_run(model, _chosen(options)), seeds, jobs, stacked, as_json)
        return
    if stacked:
        raise click.UsageError("--stacked is for several runs: say how many by --seeds")
    with training.joined() as group, contextlib.ExitStack() as stack:
        if group.rank:  # the first process speaks for all
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        _train(model, resume, dry_run, as_json, group, **options)


def _train(model: str | None, resume: str | None, dry_run: bool, as_json: bool, group: training.Group, **options) -> None:
    chosen = _chosen(options)
    if resume is not None:
        if model is not None or chosen.keys() - RESUMED:
            raise click.UsageError("--resume goes on with the settings of the run; besides "
                                   f"{', '.join(f'--{name}' for name in sorted(RESUMED))} it takes no others")
        trainer, run = _resumed(resume, chosen, as_json)
        if trainer.step >= trainer.total and chosen.keys() - {"device", "workers"}:
            raise click.UsageError(f"the run has ended at step {trainer.step}: nothing is left to train with another rate")
    else:
        run = _run(model, chosen)
        trainer = _new(run, as_json)
    with status("Counting what it will cost"):
        planned = group.by_first(trainer.plan)
    if not as_json:
        _tell_plan(trainer, planned, run)
    if dry_run:
        if as_json:
            print_json({"model": run.model, "data": run.data, "plan": planned.to_json()})
        return
    seen = group.by_first(lambda: _has_ended(trainer))  # it is only looked at
    if not seen:
        trainer.fit()
    report = _report(trainer, run, planned) if seen or group.rank else _reported(trainer, run, planned)
    if as_json:
        print_json(report)
    else:
        _tell_report(report)


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, ())}


def _many(run: Run, count: int, jobs: int, stacked: bool, as_json: bool) -> None:
    """Make a run from several seeds, and tell of each and of all."""
    settings = [{**run.to_json(), "seed": seed, "out": run.out and str(Path(run.out) / f"seed-{seed}")}
                for seed in range(run.seed, run.seed + count)]
    done: dict[int, dict[str, Any]] = {}
    for report in _stacked(settings) if stacked else side_by_side(_one, settings, jobs):
        done[report["seed"]] = report
        if not as_json:
            click.echo(f"seed {report['seed']}: " + (report.get("error") or _figures(_last_figures(report))))
    reports = [done[seed] for seed in sorted(done)]
    whole = [r for r in reports if "error" not in r]
    figures = {part: summary(whole, part) for part in ("test", "validation")}
    found = {"seeds": count, **figures, "runs": reports}
    if run.out is not None and whole:
        with atomic_write(Path(run.out) / SEEDS) as file:
            file.write(json.dumps(found, indent=1).encode())
    if as_json:
        print_json(found)
    else:
        for name, value in (figures["test"] or figures["validation"]).items():
            click.echo(f"{_figures({name: value['mean']})}, standard deviation {value['sd']:.4f}, over {len(whole)} runs")
    if len(whole) < count:
        raise TrainError(f"{count - len(whole)} of {count} runs have not ended: " + "; ".join(
            f"seed {r['seed']}: {r['error']}" for r in reports if "error" in r))


def _last_figures(report: dict[str, Any]) -> dict[str, float]:
    """Return the figures on the test part, or on the validation part where there is none."""
    parts = [{name: value for name, value in report[part].items() if value is not None} for part in ("test", "validation")]
    return parts[0] or parts[1]


def _one(settings: dict[str, Any], threads: int) -> dict[str, Any]:
    """Make a run, or what is left of it; return its report, or why there is none. In a process of its own with threads."""
    with contextlib.ExitStack() as stack:
        if threads:
            import torch
            torch.set_num_threads(threads)
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(Path(os.devnull).open("w"))))
        try:
            return {"seed": settings["seed"], **_made(Run.of(settings, "the settings"))}
        except training.Interrupted:
            raise  # all of them
        except FxgrowError as error:
            return {"seed": settings["seed"], "error": str(error)}


def _stacked(settings: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Make runs together, or what is left of them; give the report of each, or why there is none."""
    begun = []
    for one in settings:
        try:
            trainer, run = _begun(Run.of(one, "the settings"))
        except FxgrowError as error:
            yield {"seed": one["seed"], "error": str(error)}
            continue
        if _has_ended(trainer):
            yield {"seed": one["seed"], **_written(run)}
        else:
            begun.append((trainer, run, trainer.plan()))
    for (trainer, run, planned), why in zip(begun, training.fit_stacked([trainer for trainer, _, _ in begun])):
        yield {"seed": run.seed, **({"error": str(why)} if why else _reported(trainer, run, planned))}


def _made(run: Run) -> dict[str, Any]:
    trainer, run = _begun(run)
    if _has_ended(trainer):
        return _written(run)
    planned = trainer.plan()
    trainer.fit()
    return _reported(trainer, run, planned)


def _begun(run: Run) -> tuple[training.Trainer, Run]:
    """Return the trainer of one of several runs, as its last checkpoint has it if there is one."""
    checkpoint = Path(run.out or "") / training.CHECKPOINT_NAME
    if run.out is None or not checkpoint.exists():
        return _new(run, None), run
    saved, asked = training.checkpoint_settings(checkpoint), json.loads(json.dumps(run.to_json()))
    other = sorted(name for name in asked if saved.get(name) != asked[name] and name not in ("device", "workers", "out"))
    if other:
        raise TrainError(f"{run.out} holds a run with another {', '.join(other)}: choose another folder")
    return _resumed(run.out, {}, None)


def _written(run: Run) -> dict[str, Any]:
    return json.loads((Path(run.out or "") / REPORT).read_text(encoding="utf-8"))


def _has_ended(trainer: training.Trainer) -> bool:
    """Tell whether all files of a run are there already."""
    ended = trainer.step >= trainer.total or bool(trainer.stopped)
    return ended and trainer.out is not None and (trainer.out / REPORT).exists()


def _run(model: str | None, chosen: dict[str, Any]) -> Run:
    settings, origin = {} if model is None else {"model": model}, "the options"
    if model is not None and model.endswith(".toml"):
        settings, origin = read_toml(model), model
    try:
        run = Run.of({**settings, **chosen}, origin)
        if not run.model:
            raise click.UsageError("say what to train: MODEL, or a TOML file with a `model`")
        for text in run.grow:
            loops.parse_growth(text)
    except TrainError as error:
        raise click.UsageError(str(error)) from error
    return run


def _watchers(as_json: bool | None) -> list:
    """Return who tells of a run; None: nobody, as for one of several."""
    if as_json is None or training.Group().rank:
        return []
    return [training.Progress()] if as_json else [training.Progress(), training.Lines()]


def _new(run: Run, as_json: bool | None) -> training.Trainer:
    data = training.load_run_data(run)
    model = training.load_run_model(run, data)
    with status(f"Capturing {run.model}"):
        return training.Trainer(model, data, run, run.out, watchers=_watchers(as_json))


def _resumed(folder: str, chosen: dict[str, Any], as_json: bool | None) -> tuple[training.Trainer, Run]:
    file = Path(folder) / training.CHECKPOINT_NAME
    run = Run.of({**training.checkpoint_settings(file), **chosen}, str(file))
    with status(f"Loading {file}"):
        return training.Trainer.resume(folder, training.load_run_data(run), watchers=_watchers(as_json), config=run), run


def _tell_plan(trainer: training.Trainer, planned, run: Run) -> None:
    if not planned.segments:
        click.echo(f"the run has ended at step {trainer.step}; this is its report")
        return
    rows = [(f"{s.start} - {s.end}", f"{s.parameters:,}", quantity(s.flops, "FLOP"),
             quantity((s.end - s.start) * s.flops, "FLOP"), s.event) for s in planned.segments]
    print_table(f"What it will cost: {run.model} on {run.data}, {trainer.device}",
                ("steps", "parameters", "a step", "together", "grown by"), rows)
    click.echo(f"in all      {quantity(planned.flops, 'FLOP')} from step {trainer.step} on, evaluations aside")
    for text in planned.unknown:
        click.echo(f"not counted {text}: when it is due is not known yet")


def _report(trainer: training.Trainer, run: Run, planned) -> dict[str, Any]:
    names = ["loss", *(m.name for m in trainer.task.metrics)]
    test = trainer.evaluate(trainer.data.test) if len(trainer.data.test) else [None] * len(names)
    rows = trainer.history.rows
    files = {} if trainer.out is None else {name: str(trainer.out / name) for name in sorted(
        {REPORT, *(p.name for p in trainer.out.iterdir() if not p.name.startswith("."))})}
    report = {"model": run.model, "data": run.data, "task": trainer.task.name, "steps": trainer.step,
              "epochs": trainer.step / trainer.per_epoch, "stopped": trainer.stopped,
              "parameters": {"before": rows[0]["parameters"], "after": rows[-1]["parameters"]},
              "flops": {"spent": trainer.flops, "planned": planned.flops, "evaluation": trainer.eval_flops},
              "seconds": round(trainer.seconds, 2), "train_loss": rows[-1]["train_loss"],
              "validation": {name: rows[-1][f"val_{name}"] for name in names}, "best": _best(trainer),
              "test": dict(zip(names, test)), "files": files,
              "growths": [{k: v for k, v in g.items() if k not in ("explain", "outcomes")} for g in trainer.history.growths]}
    return report


def _reported(trainer: training.Trainer, run: Run, planned) -> dict[str, Any]:
    """Return the report, written into the run's folder."""
    report = _report(trainer, run, planned)
    if trainer.out is not None:
        with atomic_write(trainer.out / REPORT) as file:
            file.write(json.dumps(report, indent=1).encode())
    return report


def _best(trainer: training.Trainer) -> dict[str, dict[str, float]]:
    """Return the best validation figure of each metric, the lowest where lower is better, and the step that it is of."""
    found = {}
    for name, sign in {"loss": 1, **{m.name: -1 if m.higher else 1 for m in trainer.task.metrics}}.items():
        rows = [row for row in trainer.history.rows if row[f"val_{name}"] is not None]
        if rows:
            best = min(rows, key=lambda row: sign * row[f"val_{name}"])
            found[name] = {"value": best[f"val_{name}"], "step": best["step"]}
    return found


def _figures(values: dict[str, float]) -> str:
    """Return a task's metrics and the loss in words, with units: `cross-entropy 1.23 bits per byte`."""
    from fxgrow.experiments.tasks import metric_of
    words = []
    for name, value in sorted(values.items(), key=lambda item: item[0] == "loss"):
        metric = metric_of(f"val_{name}")
        label, unit = (metric.label, metric.unit) if metric else (name, "")
        words.append(f"{label} {value:.4f}{f' {unit}' if unit else ''}")
    return ", ".join(words)


def _tell_report(report: dict[str, Any]) -> None:
    before, after = report["parameters"]["before"], report["parameters"]["after"]
    if report["stopped"]:
        click.echo(f"stopped     {report['stopped']}")
    click.echo(f"parameters  {before:,} -> {after:,}")
    click.echo(f"spent       {quantity(report['flops']['spent'], 'FLOP')} in {report['steps']} steps "
               f"({report['seconds']:.1f} s), and {quantity(report['flops']['evaluation'], 'FLOP')} on evaluations")
    for name, best in [*report["best"].items()][1:2]:  # of the first metric, behind the loss
        click.echo(f"best        {_figures({name: best['value']})} on the validation part, at step {best['step']}")
    if report["test"]["loss"] is not None:
        click.echo(f"test        {_figures(report['test'])}")
    files = report["files"]
    if files:
        click.echo(f"written     {Path(next(iter(files.values()))).parent}: {', '.join(files)}")
    else:
        click.echo("written     nothing: name a folder with -o to keep the model")
