"""The neighbourhood of an architecture: which neighbours are drawn, what is compared, and what is said about it."""
from __future__ import annotations

import dataclasses
import json
import random

import pytest
from click.testing import CliRunner

import fxgrow
from fxgrow.cli.main import main
from fxgrow.experiments import papers
from fxgrow.experiments.evolve import Limits, Parent, graph_hash, mutate
from fxgrow.experiments.evolve.mutation import Mutation, describe
from fxgrow.experiments.papers import ExperimentError
from fxgrow.experiments.papers.neighbour_runs import GROWN, GROWTH, SCRATCH, Neighbours, as_words, verdict
from fxgrow.experiments.papers.running import untrained
from fxgrow.loops import parse_growth
from fxgrow.passes import Kernel, Widen

MLP = "zoo:mlp:hidden=(12,12)"


def setup(tmp_path, **changes) -> Neighbours:
    return Neighbours(**{"experiment": "neighbours", "scale": "smoke", "out": tmp_path, "data": "digits", "model": MLP,
                         "count": 4, **changes})


def invoke(*words):
    return CliRunner().invoke(main, ["experiment", "neighbours", *map(str, words)])


def test_neighbours_are_small_different_and_the_same_in_both_groups(tmp_path):
    made = setup(tmp_path, model="zoo:mlp:hidden=(24,24,24)")
    groups = {g: [a for a in made.declared.arms if a.group == g and a.grow] for g in (GROWN, SCRATCH)}
    assert [a.name for a in groups[GROWN]] == [a.name for a in groups[SCRATCH]] and len(groups[GROWN]) == 4
    base = untrained(made, f"{SCRATCH}/original", 0)
    cost, hashes = fxgrow.count_flops(base, made.load(0).train[0][0][None]), set()
    for arm in groups[SCRATCH]:
        assert arm.fresh and arm.grow[0].startswith("step=0: ")
        model = untrained(made, arm.key, 0)
        told = fxgrow.count_flops(model, made.load(0).train[0][0][None])
        assert cost.parameters < told.parameters <= GROWTH * cost.parameters and told.forward <= GROWTH * cost.forward
        hashes.add(graph_hash(model))
    assert len(hashes - {graph_hash(base)}) == 4
    assert setup(tmp_path, model="zoo:mlp:hidden=(24,24,24)").declared == made.declared
    steps = {arm.key: made.config(arm, made.load(0), 0).steps for arm in made.declared.arms}
    assert {steps[a.key] for a in made.declared.arms if a.group == SCRATCH} == {8} and steps[f"{GROWN}/original"] == 4


def test_mutations_in_words_are_read_as_they_were():
    step = Widen("a b.*", factor=1.25, method="netmorph", seed=7)
    read, = parse_growth(f"step=0: {as_words(describe(step))}").instances(1)
    assert read == dataclasses.replace(step, where=[step.where])
    assert as_words(describe(Kernel("0", size=7))) == "kernel where=0 size=7"


def test_verdicts():
    original = [0.5, 0.52, 0.51]
    far, near, below = [0.9, 0.93, 0.9], [0.51, 0.51, 0.52], [0.4, 0.41, 0.39]
    better = verdict("g", {"original": original, "a": far, "b": below})
    assert "1 of 2" in better and "the best, a, differs from it by +40.0 ± 1.0 points" in better
    assert better.endswith("it is no local maximum")
    assert "a local maximum among them" in verdict("g", {"original": original, "b": below})
    assert "do not tell" in verdict("g", {"original": original, "c": near, "b": below})
    single = verdict("g", {"original": [0.5], "a": [0.6]})
    assert "over 1 seed; " in single and single.endswith("these runs do not tell")


def test_one_of_many_that_is_better_by_chance_is_not_better():
    """p = 0.03 for one neighbour is worth something, for the best of twelve it is not."""
    lucky = {"original": [0.5, 0.5, 0.5, 0.5], "a": [0.52, 0.55, 0.50, 0.54]}
    assert "no local maximum" in verdict("g", lucky)
    others = {f"n{i}": [0.49, 0.51, 0.5, 0.48] for i in range(11)}
    assert "do not tell" in verdict("g", {**lucky, **others})


def test_runs_through_reports_and_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(papers.reports, "draw_figures", lambda *_: [])
    words = ("--scale", "smoke", "--data", "digits", "--model", MLP, "--count", 2, "--seeds", 2, "--out", tmp_path / "r")
    done = invoke(*words, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert len(report["summary"]) == 1 + 2 * 3 and len(report["conclusions"]) == 2
    assert all((tmp_path / "r" / f).read_bytes().startswith(b"\x89PNG") for f in report["figures"])
    assert report["figures"] == ["neighbours-from-the-trained-original.png", "neighbours-from-scratch.png"]
    assert all(c in (tmp_path / "r" / "table.md").read_text() for c in report["conclusions"])
    assert "--count 2" in report["command"] and f"--model '{MLP}'" in report["command"]
    run = json.loads(next((tmp_path / "r" / "runs").glob("*from_the_trained*1_*-0.json")).read_text())
    assert run["growths"][0]["preserving"] and run["growths"][0]["step"] == 0
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "r" / "runs").iterdir()}
    again = json.loads(invoke(*words, "--json").stdout)
    assert again["summary"] == report["summary"] and files == {f: f.stat().st_mtime_ns for f in files}


def test_what_cannot_be_done_is_told(tmp_path):
    with pytest.raises(ExperimentError, match="zoo:NAME"):
        assert setup(tmp_path, model="torchvision:resnet18").declared
    other = CliRunner().invoke(main, ["experiment", "convergence-widen", "--count", "3"])
    assert other.exit_code == 2 and "for neighbours" in other.output


def test_a_neighbour_without_a_counterpart_from_scratch_is_not_drawn(tmp_path, monkeypatch):
    """A gate that belongs to no layer cannot be drawn anew."""
    from fxgrow.experiments.papers import neighbour_runs

    monkeypatch.setattr(neighbour_runs, "default_mutations", lambda: [Mutation("skip", 1, "modules", {"weight": "scalar"})])
    one = setup(tmp_path, count=0, model="zoo:mlp:hidden=(64,64)")
    parent = Parent(0, untrained(one, f"{GROWN}/start", 0), one.load(0).train[0][0][None])
    assert mutate([parent], neighbour_runs.default_mutations(), random.Random(0), Limits())[0] is not None
    found = neighbour_runs.draw(dataclasses.replace(one, count=1))
    assert [text for _, text in found] == ["step=0: skip where=fc"]  # sizes differ there: a projection, which is a layer
    monkeypatch.setattr(neighbour_runs, "redrawn", refuse)
    with pytest.raises(ExperimentError, match="only 0 neighbours"):
        neighbour_runs.draw(dataclasses.replace(one, count=1))


def refuse(*args):
    raise ExperimentError("it cannot be drawn anew")
