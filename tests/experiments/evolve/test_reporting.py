"""What the page about a search is told: of searches that ended, were cut off, or lost a file."""
from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from fxgrow.cli.main import main
from fxgrow.errors import DrawError
from fxgrow.experiments.evolve import Member, Scored, Search, SearchConfig, Store, report, search
from fxgrow.experiments.evolve.history import read_search
from fxgrow.experiments.evolve.reporting import grouped, page_data
from fxgrow.experiments.settings import TrainError

SMALL = {"model": "zoo:mlp:hidden=(8,8)", "data": "digits", "limit": 60, "first_steps": 4, "rounds": 2, "keep": 2,
         "children": 3, "steps": 10, "final_steps": 2, "train": {"batch_size": 20, "lr": 0.05},
         "mutations": [{"pass": "widen", "factor": [1.5, 2.0, 9.0]}, {"pass": "deepen"}]}
MODES = {"rounds": {}, "steady": {"mode": "steady", "selection": "aging", "keep": 1, "children": 2},
         "share": {"weights": "share"}}


@pytest.fixture(scope="module", params=MODES)
def found(request, tmp_path_factory):
    return search(SearchConfig.of({**SMALL, **MODES[request.param]}), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return search(SearchConfig.of(SMALL), tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished, tmp_path):
    """A folder of its own with the finished search."""
    return shutil.copytree(finished.folder, tmp_path / "run")


@pytest.mark.thinned(3)
def test_it_tells_what_the_search_found(found):
    told, h = page_data(found.folder), read_search(found.folder)
    assert told["finished"] and told["state"] == "finished" and told["best"] == found.best.number
    assert h.best == found.best and h.alive == {s.number for s in found.population}
    assert sorted(s.number for s in h.stages[-2].population) == sorted(s.number for s in found.population)
    if found.config.mode == "steady":  # some have died, as no round says
        assert len(found.population) == found.config.keep + found.config.children < len(told["members"])
    members = {m["number"]: m for m in told["members"]}
    for number, m in members.items():
        trainings = [s for s in found.evaluations if s.number == number]
        assert [t[1] for t in m["trainings"]] == [s.accuracy for s in trainings]
        assert m["accuracy"] == trainings[-1].accuracy and m["parameters"] == trainings[-1].member.parameters
        parent = members.get(m["parent"])
        if parent is not None:
            assert m["pass"] in ("widen", "deepen") and m["pass"] in m["step"] and m["where"] in m["step"]
            grown = sum(c["parameters"][1] - c["parameters"][0] for c in m["layers"])
            assert grown == m["parameters"] - parent["parameters"] > 0
    points = told["curves"]["points"]
    assert points[-1]["spent"] == sum(s.spent for s in found.evaluations)
    assert points[-1]["highest"] == max(p["best"] for p in points)
    higher = max(members.values(), key=lambda m: m["accuracy"])
    assert told["facts"].get("highest accuracy of all") == (
        f"{higher['accuracy']:.4f}, #{higher['number']}" if higher["accuracy"] > found.best.accuracy else None)
    assert told["line"][0] == 0 and told["line"][-1] == found.best.number
    assert "diagram" in told and (told["best"] == 0) == ("changes" not in told)


def test_the_seeds_are_those_of_the_trainings(found):
    told = page_data(found.folder, changes="none")
    seeds = {(m["number"], t[0]): t[6] for m in told["members"] for t in m["trainings"]}
    run = Search(found.config, found.folder, None)
    try:
        for number in (0, found.best.number):
            last = next(s for s in reversed(found.evaluations) if s.number == number and s.steps)
            if found.config.weights == "inherit" or last.round in (0, read_search(found.folder).last):
                task = run._task(number, last.round, 1)
                assert seeds[number, last.round] == task.seed
    finally:
        run.store.close()


def test_a_search_that_was_cut_off(tmp_path):
    count = 0

    def stop(run, s):
        nonlocal count
        count += s is not None
        if count == 3:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        search(SearchConfig.of(SMALL), tmp_path / "run", watch=[stop])
    told = page_data(tmp_path / "run")
    assert not told["finished"] and "3 trainings are done, the last in round 1" in told["state"]
    assert told["resume"] == f"fxgrow evolve --resume {tmp_path / 'run'}"
    waiting = [m for m in told["members"] if m["state"] == "waiting"]
    assert waiting and all(m["accuracy"] is None and "not trained so far" in m["layers"] for m in waiting)
    trained = [m for m in told["members"] if m["accuracy"] is not None]
    assert told["best"] == max(trained, key=lambda m: (m["accuracy"], -m["loss"], -m["number"]))["number"]


def test_before_anything_is_trained(tmp_path):
    def stop(run, s):
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        search(SearchConfig.of(SMALL), tmp_path / "run", watch=[stop])
    told = report(tmp_path / "run", tmp_path / "page.html")
    assert told["best"] is None and told["members"] == [] and "no network has been trained" in told["missing"]


@pytest.mark.thinned(6)
@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("hurt", [lambda b: b[:50], lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:], None])
def test_damaged_networks_are_told_and_their_lineage_kept(finished, copy, hurt, thorough):
    store = Store(copy)
    victim = finished.best
    path = store.path(victim.archive)
    path.unlink() if hurt is None else path.write_bytes(hurt(path.read_bytes()))
    assert victim.archive in store.check(thorough)
    told = page_data(copy, thorough=thorough)
    assert (victim.number, victim.round) in [(d["number"], d["round"]) for d in told["damaged"]]
    assert all(path.name in d["reason"] for d in told["damaged"] if d["round"] == victim.round)
    member = next(m for m in told["members"] if m["number"] == victim.number)
    assert path.name in member["damaged"] and member["accuracy"] == victim.accuracy
    unread = page_data(finished.folder, changes="none")["members"]
    assert [m["number"] for m in told["members"]] == [m["number"] for m in unread]
    assert "diagram" in told and isinstance(member["layers"], list)  # from its file of an earlier round


def test_what_is_built_on_a_damaged_file_is_damaged_too(finished, copy):
    store = Store(copy)
    for path in (copy / "networks").iterdir():
        path.write_bytes(b"fxw1 nothing")
    every = {s.archive for s in finished.evaluations}
    assert set(store.check(thorough=False)) == every
    told = page_data(copy)
    assert len(told["damaged"]) == len(finished.evaluations) and "cannot be read" in told["missing"]
    assert all("cannot be read" in m["layers"] for m in told["members"] if m["parent"] is not None)


def test_a_failed_training_is_no_damaged_network(copy):
    store = Store(copy)
    store.add_members([Member(99, 9, 0, {"pass": "widen", "where": "x"}, "g", 5, 5)], 9, [])
    store.add_evaluations([Scored(store.members()[99], 9, "", 0.0, float("inf"), "", 7, 1, 0.1)])
    assert store.check() == store.check(thorough=False) == {}
    member = page_data(copy, changes="none")["members"][-1]
    assert member["state"] == "failed" and member["accuracy"] is None and member["trainings"][0][1] is None


def test_only_the_line_of_the_best_is_compared_on_request(finished):
    told = page_data(finished.folder, changes="line")
    compared = {m["number"] for m in told["members"] if m["layers"] is not None}
    assert compared == set(told["line"]) - {0}
    assert not any(m["layers"] for m in page_data(finished.folder, changes="none")["members"])


def test_discarded_mutations_are_grouped_by_reason():
    def one(where, reason, round=1, name="widen"):
        return {"round": round, "parent": 0, "step": {"pass": name, "where": where}, "reason": reason}
    groups = grouped([one("a.b", "a.b: 2.31 times its parent's FLOPs; at most 2 times"), one("c", "c has no layer"),
                      one("c.1", "c.1: 3.5 times its parent's FLOPs; at most 2 times", 4),
                      one("c", "c has no layer", name="se")])
    assert [(g["pass"], g["count"], g["reason"], g["rounds"]) for g in groups] == [
        ("widen", 2, "…: … times its parent's FLOPs; at most … times", [1, 4]), ("widen", 1, "… has no layer", [1, 1]),
        ("se", 1, "… has no layer", [1, 1])]
    assert groups[0]["examples"][1]["reason"].startswith("c.1: 3.5 times")


def test_discarded_mutations_of_a_search_are_all_told(finished):
    told = page_data(finished.folder, changes="none")
    assert sum(g["count"] for g in told["discarded"]) == len(Store(finished.folder).discarded()) > 0


@pytest.mark.parametrize("held, rows, problem, about", [
    ([{"method": "mean", "accuracy": 0.9, "members": [1, 2]}], 1, "", ""),
    ({"seed": 1, "ensembles": [{"a": 1}, {"a": 2}]}, 2, "", "seed 1"),
    ("not json", 0, "cannot be read", ""), ({"a": 1}, 0, "no list", "a 1")])
def test_ensembles_are_told_if_there_are_any(copy, held, rows, problem, about):
    assert "ensembles" not in page_data(copy, changes="none")
    (copy / "ensembles.json").write_text(held if isinstance(held, str) else json.dumps(held))
    told = page_data(copy, changes="none")
    assert len(told["ensembles"]) == rows and problem in told["ensembles_problem"]
    assert told["ensembles_about"] == about


def test_the_command(finished, copy, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["evolve-report", str(copy), "-o", str(page), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == page.stat().st_size
    content = page.read_text()
    assert "https://" not in content and content.count("http://") == 1  # the name of SVG
    next((copy / "networks").iterdir()).unlink()
    done = CliRunner().invoke(main, ["evolve-report", str(copy), "-o", str(page), "--changes", "line", "--title", "<b>x"])
    assert done.exit_code == 0 and "is damaged" in done.stderr and "<b>x" not in page.read_text()


@pytest.mark.parametrize("output, said", [("page.png", "one .html file"), ("no/page.html", "cannot be written")])
def test_what_cannot_be_done_is_told_and_leaves_no_file(finished, tmp_path, output, said):
    done = CliRunner().invoke(main, ["evolve-report", str(finished.folder), "-o", str(tmp_path / output)])
    assert done.exit_code == 1 and said in done.stderr and list(tmp_path.iterdir()) == []


def test_a_folder_without_a_search_is_left_alone(tmp_path):
    with pytest.raises(TrainError, match="holds no search"):
        report(tmp_path, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    Store(tmp_path).close()
    with pytest.raises(TrainError, match="had not begun"):
        report(tmp_path, tmp_path / "page.html")
    with pytest.raises(DrawError):
        report(tmp_path, tmp_path / "page.svg")
