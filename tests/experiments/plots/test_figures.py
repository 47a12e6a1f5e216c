"""Figures of runs: what is in them, number for number, and where they come from."""
from __future__ import annotations

import json
import sys

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from torch.utils.tensorboard import SummaryWriter
from training import trainer

from fxgrow.cli.main import main
from fxgrow.experiments.plots import bars, curves
from fxgrow.experiments.plots.folders import group_runs, read_runs
from fxgrow.experiments.plots.numbers import PlotError, aligned, curve, points, smoothed, to_csv
from fxgrow.experiments.train import History, Run

GREW = "step=2: widen factor=2 where=layer1.*"


def rows(xs, ys, events=()):
    """Rows of a history; `events` are positions that a growth made."""
    return [{"step": i, "flops": x, "val_accuracy": y, "val_loss": None, "lr": 0.1, "event": GREW if i in events else ""}
            for i, (x, y) in enumerate(zip(xs, ys))]


THREE = [rows([0, 10, 20], ys) for ys in ([0.1, 0.5, 0.8], [0.2, 0.6, 0.9], [0.3, 0.4, 0.7])]


def lines(figure):
    """The curves, without the vertical lines of growths."""
    return [line for line in figure.axes[0].lines if line.get_zorder() == 3]


def bands(figure):
    """low and high of each band, [points]; the polygon goes along one and back along the other."""
    found = []
    for c in figure.axes[0].collections:
        assert isinstance(c, PolyCollection)
        found.append({x: (min(ys), max(ys)) for path in c.get_paths() for x in set(path.vertices[:, 0])
                      for ys in [path.vertices[path.vertices[:, 0] == x, 1]]})
    return found


def marks(figure):
    return [line.get_xdata()[0] for line in figure.axes[0].lines if line not in lines(figure)]


def flags(figure):
    return {text.get_text(): text.xy[0] for text in figure.axes[0].texts}


def words(figure):
    legend = figure.legends[0]
    return [t.get_text() for t in legend.get_texts()], legend.get_title().get_text()


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("band, low, high", [
    ("sd", [0.1, 0.4, 0.7], [0.3, 0.6, 0.9]),
    ("range", [0.1, 0.4, 0.7], [0.3, 0.6, 0.9]),
    ("ci", [m - 4.30265273 * 0.1 / 3 ** 0.5 for m in (0.2, 0.5, 0.8)],
     [m + 4.30265273 * 0.1 / 3 ** 0.5 for m in (0.2, 0.5, 0.8)])])
def test_mean_and_band(band, low, high):
    figure = curves({"a": THREE}, band=band)
    line, = lines(figure)
    np.testing.assert_allclose(line.get_xdata(), [0, 10, 20])
    np.testing.assert_allclose(line.get_ydata(), [0.2, 0.5, 0.8])
    drawn, = bands(figure)
    for i, x in enumerate((0, 10, 20)):
        np.testing.assert_allclose(drawn[x], (low[i], high[i]))


def test_no_band_where_there_is_one_run_and_none_when_none_is_asked_for():
    assert bands(curves({"a": THREE[:1]})) == [] == bands(curves({"a": THREE}, band="none"))
    assert words(curves({"a": THREE[:1]})) == (["a (1 run, no band)"], "")
    assert words(curves({"a": THREE, "b": THREE[:1]}, band="range")) == (
        ["a (3 runs)", "b (1 run, no band)"], "mean over runs, band: lowest to highest")
    assert words(curves({"a": THREE}, band="none")) == (["a (3 runs)"], "")


def test_runs_on_other_x_are_read_off_between_their_points():
    c = curve("a", [rows([0, 10, 20], [0.0, 1.0, 0.0]), rows([0, 5, 20], [0.5, 0.5, 0.5])], "flops", "val_accuracy")
    assert c.x.tolist() == [0, 5, 10, 20]
    np.testing.assert_allclose(c.mean, [0.25, 0.5, 0.75, 0.25])
    assert c.count.tolist() == [2, 2, 2, 2]


def test_a_run_says_nothing_outside_its_own_points():
    short, long = rows([5, 10], [1.0, 1.0]), rows([0, 20], [0.0, 0.0])
    c = curve("a", [short, long], "flops", "val_accuracy")
    assert c.x.tolist() == [0, 5, 5, 10, 10, 20]
    np.testing.assert_allclose(c.mean, [0, 0, 0.5, 0.5, 0, 0])
    assert c.count.tolist() == [1, 1, 2, 2, 1, 1]
    assert np.isnan(c.low).tolist() == [True, True, False, False, True, True]
    drawn, = bands(curves({"a": [short, long]}))
    assert set(drawn) == {5, 10}


def test_a_gap_between_runs_is_not_bridged():
    c = curve("a", [rows([0, 1], [1.0, 1.0]), rows([2, 3], [5.0, 5.0])], "flops", "val_accuracy")
    assert c.x.tolist() == [0, 1, 1, 2, 2, 3] and c.count.tolist() == [1, 1, 0, 0, 1, 1]
    np.testing.assert_allclose(c.mean, [1, 1, np.nan, np.nan, 5, 5])


def test_a_jump_stays_a_jump():
    """A growth that is not exact: two rows at one x, and the other seed has a straight line there."""
    jumps = rows([0, 10, 10, 20], [0.0, 1.0, 0.0, 1.0], events=[2])
    grid, values = aligned([tuple(np.array(v, float) for v in ([0, 10, 10, 20], [0, 1, 0, 1])),
                            tuple(np.array(v, float) for v in ([0, 5, 20], [0, 0.5, 0.5]))])
    assert grid.tolist() == [0, 5, 10, 10, 20]
    np.testing.assert_allclose(values, [[0, 0.5, 1, 0, 1], [0, 0.5, 0.5, 0.5, 0.5]])
    line, = lines(curves({"a": [jumps]}))
    assert line.get_xdata().tolist() == [0, 10, 10, 20] and line.get_ydata().tolist() == [0, 1, 0, 1]


def test_one_point():
    line, = curves({"a": [rows([3], [0.5])]}).axes[0].lines
    assert line.get_xdata().tolist() == [3] and line.get_marker() == "o"


def test_rows_without_a_number_are_left_out_and_a_number_that_is_not_finite_is_a_gap():
    run = rows([0, 10, 20, 30, 40], [1.0, None, 3.0, float("nan"), 5.0])
    c = curve("a", [run, rows([0, 25, 40], [1.0, 1.0, 1.0])], "flops", "val_accuracy")
    assert c.x.tolist() == [0, 20, 25, 30, 40] and c.count.tolist() == [2, 2, 1, 1, 2]
    np.testing.assert_allclose(c.mean, [1, 2, 1, 1, 3])
    np.testing.assert_allclose(smoothed(np.array([1.0, np.nan, 2.0]), 0.5), [1, np.nan, 5 / 3])


def test_smoothing():
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0, 4.0]), 0.5), [1, 5 / 3, 5.25 / 1.75])
    figure = curves({"a": [rows([0, 1, 2], [1.0, 2.0, 4.0])]}, smooth=0.5)
    np.testing.assert_allclose(lines(figure)[0].get_ydata(), [1, 5 / 3, 5.25 / 1.75])
    assert figure.axes[0].get_ylabel() == "validation accuracy (exponential moving average, 0.5)"


def test_a_history_is_a_run():
    a, b = curves({"a": [History(THREE[0])]}), curves({"a": [THREE[0]]})
    assert lines(a)[0].get_ydata().tolist() == lines(b)[0].get_ydata().tolist() == [0.1, 0.5, 0.8]


# --- growths ----------------------------------------------------------------------------------------------------------


def test_growths_are_marked_where_they_were():
    grown = [rows([0, 10, 10, 20], [0.1, 0.5, 0.5, 0.8], events=[2])]
    later = [rows([0, 12, 12, 20], [0.1, 0.5, 0.5, 0.8], events=[2])]
    figure = curves({"a": grown, "b": later, "c": grown, "d": THREE}, x="flops")
    assert sorted(marks(figure)) == [10, 12]
    assert {(t.xy[0], t.get_text()) for t in figure.axes[0].texts} == {
        (10, "widen factor=2 where=layer1.*"), (12, "widen factor=2 where=layer1.*")}
    assert marks(curves({"a": grown}, x="step")) == [2]
    assert marks(curves({"a": grown}, growths=False)) == [] and flags(curves({"a": grown}, growths=False)) == {}


def test_labels_of_growths_do_not_overlap_and_stay_in_the_picture():
    runs = {f"run {i}": [rows([0, 10 + i, 10 + i, 100 - i], [0.1, 0.5, 0.5, 0.8], events=[2])] for i in range(4)}
    runs["late"] = [rows([0, 99, 99, 100], [0.1, 0.5, 0.5, 0.8], events=[2])]
    figure = curves(runs, title="many")
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in figure.axes[0].texts]  # without the poles
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(0 <= b.x0 and b.x1 <= 800 for b in boxes)


def test_a_growth_at_zero_is_not_on_a_logarithmic_axis():
    figure = curves({"a": [rows([0, 0, 10, 10, 20], [0.1, 0.1, 0.5, 0.5, 0.8], events=[1, 3])]}, log_x=True)
    assert marks(figure) == [10] and figure.axes[0].get_xlim()[0] > 5


def test_more_growths_than_labels_have_room_is_said():
    runs = {f"run {i}": [rows([0, 10 + i, 10 + i, 100], [0.1, 0.5, 0.5, 0.8], events=[2])] for i in range(9)}
    figure = curves(runs)
    assert len(marks(figure)) == 9 and len(figure.axes[0].texts) == 6
    assert words(figure)[1] == "3 more growths have no label"


# --- words and axes ---------------------------------------------------------------------------------------------------


def test_hostile_names_are_shown_as_they_are(tmp_path):
    names = ["$x_1$", "<b>", "_", "$\\frac{", "a\nb\x07", "%s {0} --> &amp;"]
    run = rows([0, 10, 10, 20], [0.1, 0.5, 0.5, 0.8], events=[2])
    run[2]["event"] = "step=2: $\\bad{"
    figure = curves({name: [run] for name in names}, tmp_path / "a.svg", title="$\\alpha")
    assert words(figure)[0] == [f"{n} (1 run, no band)" for n in [*names[:4], "a b\N{REPLACEMENT CHARACTER}", names[5]]]
    assert flags(figure) == {"$\\bad{": 10}
    texts = [*figure.legends[0].get_texts(), *figure.axes[0].texts, figure._suptitle, figure.axes[0].xaxis.label]
    assert not any(t.get_parse_math() for t in texts)
    bars({name: [1.0, 2.0] for name in names}, tmp_path / "b.svg", title="$\\alpha", y="$_")
    assert "<!-- $x_1$" in (tmp_path / "b.svg").read_text()


def test_axes_have_units():
    figure = curves({"a": [rows([0, 10e9, 20e9], [0.1, 0.5, 0.8])]}, log_x=True)
    axes = figure.axes[0]
    figure.draw_without_rendering()
    assert axes.get_xlabel() == "floating-point operations spent in training" and axes.get_xscale() == "log"
    assert "20 GFLOP" in [t.get_text() for t in axes.get_xticklabels()]
    assert "50 %" in [t.get_text() for t in axes.get_yticklabels()]
    assert lines(figure)[0].get_xdata().tolist()[1:] == [10e9, 20e9] and np.isnan(lines(figure)[0].get_xdata()[0])


def test_lines_differ_in_colour_and_in_style():
    drawn = lines(curves({str(i): THREE[:1] for i in range(12)}))
    looks = {(matplotlib.colors.to_hex(line.get_color()), line.get_linestyle()) for line in drawn}
    assert len(looks) == 12 and len({look[1] for look in looks}) == 4


def test_bars():
    figure = bars({"a": [0.9, 0.8, 1.0], "b": [0.5]})
    dots, mean, spread, one, *_ = figure.axes[0].lines
    assert list(dots.get_xdata()) == [0.9, 0.8, 1.0] and list(one.get_xdata()) == [0.5]
    np.testing.assert_allclose(mean.get_xdata(), [0.9, 0.9])
    np.testing.assert_allclose(spread.get_xdata(), [0.8, 1.0])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a (3)", "b (1)"]
    assert figure.axes[0].get_xlabel() == "validation accuracy; bar: mean, line: ± 1 standard deviation"


@pytest.mark.parametrize("table, band, message", [
    ({}, "sd", "at least one label"), ({"a": []}, "sd", "one finite number"),
    ({"a": [float("nan")]}, "sd", "one finite number"), ({"a": [1.0]}, "se", "choose one of sd, ci, range, none")])
def test_bars_refuse(table, band, message):
    with pytest.raises(PlotError, match=message):
        bars(table, band=band)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_runs_give_the_same_file(tmp_path, suffix, magic):
    for name in "ab":
        curves({"a": THREE}, tmp_path / f"{name}{suffix}")
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second and first.startswith(magic)


def test_settings_of_the_caller_neither_matter_nor_change(tmp_path):
    from matplotlib import pyplot
    curves({"a": THREE}, tmp_path / "a.png")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.grid": False, "savefig.dpi": 30}):
        before = dict(matplotlib.rcParams)
        curves({"a": THREE}, tmp_path / "b.png")
        assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("runs, settings, message", [
    ({}, {}, "there are no runs"),
    ({"a": []}, {}, "'a': give a list of runs"),
    ({"a": THREE[0]}, {}, "'a': give a list of runs"),
    ({"a": [[]]}, {}, "there are none at all"),
    ({"a": THREE}, {"y": "val_acuracy"}, "a: there is no column 'val_acuracy' with numbers; did you mean val_accuracy"),
    ({"a": THREE}, {"y": "val_loss"}, "no column 'val_loss' with numbers.*; there are step, flops, val_accuracy, lr"),
    ({"a": THREE}, {"y": "event"}, "no column 'event'"),
    ({"a": [rows([0, 2, 1], [1, 1, 1])]}, {}, "'flops' falls along a run"),
    ({"a": THREE}, {"band": "se"}, "choose one of sd, ci, range, none"),
    ({"a": THREE}, {"smooth": 1.0}, "smooth=1.0"),
    ({"a": [rows([0, 1], [float("nan")] * 2)]}, {}, "no row has both 'flops' and a finite 'val_accuracy'"),
    ({"a": [rows([0], [0.5])]}, {"log_x": True}, "no flops is above 0"),
    ({"a": THREE}, {"path": "a.gif"}, "'a.gif' does not say what to draw: end its name in .png, .svg, .pdf")])
def test_refusals(tmp_path, monkeypatch, runs, settings, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlotError, match=message):
        curves(runs, **{"path": "a.png", **settings})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_drawing_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def fails(self, file, **_):
        file.write(b"half")
        raise RuntimeError("broken")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    with pytest.raises(RuntimeError, match="broken"):
        curves({"a": THREE}, target)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"] and target.read_bytes() == b"old"


@pytest.mark.parametrize("package", ["seaborn", "matplotlib"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PlotError, match=rf"{package}.*pip install 'fxgrow\[plots\]'"):
        curves({"a": THREE})


def test_the_data_as_text():
    c = curve("a, b", [rows([0, 10], [0.25, 0.5])], "flops", "val_accuracy")
    assert to_csv([c]) == 'label,x,mean,low,high,count\n"a, b",0.0,0.25,,,1\n"a, b",10.0,0.5,,,1\n'
    assert json.loads(json.dumps(c.to_json(), allow_nan=False))["low"] == [None, None]


# --- folders ----------------------------------------------------------------------------------------------------------


def event_files(folder, scalars, texts=(), new_style=False):
    """`scalars`: (tag, value, step). A wall time of one second a step makes `seconds` known."""
    with SummaryWriter(str(folder)) as writer:
        for tag, value, step in scalars:
            writer.add_scalar(tag, value, step, walltime=1000.0 + step, new_style=new_style)
        for text, step in texts:
            writer.add_text("growth", text, step)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs of twelve steps: two seeds that grow at step 6, two that do not."""
    folder = tmp_path_factory.mktemp("plots") / "runs"
    for name, grow in (("grown", ["step=6: widen by=2 method=r2r"]), ("scratch", [])):
        for seed in (0, 1):
            run = trainer(*grow, out=folder / f"{name}-{seed}", steps=12, eval_every=3, seed=seed, tensorboard=bool(grow))
            run.config = Run(**{**run.config.to_json(), "model": "perceptron", "data": "clusters"})
            run.fit()
    return folder


@pytest.mark.parametrize("new_style", [False, True])
def test_event_files(tmp_path, new_style):
    scalars = [("loss", 2.0, 0), ("loss", 1.0, 10), ("acc", 0.5, 10), ("loss", 0.5, 20)]
    event_files(tmp_path / "a", scalars, new_style=new_style)
    run, = read_runs([tmp_path])
    assert run.name == "a" and run.source == "tensorboard" and run.settings == {}
    plain = [{k: v for k, v in row.items() if k != "event"} for row in run.rows]
    assert plain == [{"step": 0, "seconds": 0.0, "loss": 2.0}, {"step": 10, "seconds": 10.0, "loss": 1.0, "acc": 0.5},
                     {"step": 20, "seconds": 20.0, "loss": 0.5}]
    figure = curves({"a": [run.rows]}, x="step", y="loss")
    assert lines(figure)[0].get_xdata().tolist() == [0, 10, 20] and lines(figure)[0].get_ydata().tolist() == [2, 1, 0.5]


def test_event_files_of_an_interrupted_run(tmp_path):
    """What was written behind the step that a run went on from is not drawn."""
    event_files(tmp_path, [("loss", 2.0, 0), ("loss", 1.0, 10), ("loss", 9.0, 20)])
    with SummaryWriter(str(tmp_path), purge_step=11, filename_suffix=".z") as writer:
        writer.add_scalar("loss", 0.5, 20)
    run, = read_runs([tmp_path])
    assert [(row["step"], row["loss"]) for row in run.rows] == [(0, 2.0), (10, 1.0), (20, 0.5)]


def test_growths_in_event_files(tmp_path):
    scalars = [("loss", 2.0, 0), ("loss", 1.0, 5), ("loss", 1.5, 5), ("loss", 1.75, 5), ("loss", 0.5, 9)]
    event_files(tmp_path, scalars, [("step=5: widen by=2\n\n    words", 5), ("step=5: deepen", 5), ("step=7: kernel", 7)])
    run, = read_runs([tmp_path])
    assert [(row["step"], row.get("loss"), row["event"]) for row in run.rows] == [
        (0, 2.0, ""), (5, 1.0, ""), (5, 1.5, "step=5: widen by=2"), (5, 1.75, "step=5: deepen"),
        (7, None, "step=7: kernel"), (9, 0.5, "")]
    assert flags(curves({"a": [run.rows]}, x="step", y="loss")) == {"widen by=2": 5, "deepen": 5, "kernel": 7}


def test_the_history_and_the_event_files_of_a_run_say_the_same(runs):
    history, events = read_runs([runs / "grown-0"]), read_runs([runs / "grown-0" / "tensorboard"])
    assert [run.source for run in history + events] == ["history", "tensorboard"]
    for name in ("val_loss", "val_accuracy", "train_loss", "flops"):
        a, b = (points("", run.rows, "step", name) for run in history + events)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_allclose(a[1], b[1], rtol=1e-6)
    assert [row["event"] for row in history[0].rows] == [row["event"] for row in events[0].rows]


def test_runs_that_differ_in_their_seed_alone_are_one_curve(runs):
    groups = group_runs(read_runs([runs]))
    assert {label: [run.name for run in members] for label, members in groups.items()} == {
        "grown": ["grown-0", "grown-1"], "scratch": ["scratch-0", "scratch-1"]}


def test_each_run_is_found_once(runs):
    found = read_runs([runs / "grown-0", runs, str(runs / "grown-1") + "/."])
    assert sorted(run.name for run in found) == ["grown-0", "grown-1", "scratch-0", "scratch-1"]


@pytest.mark.parametrize("group, labels", [
    ("grow", ["grow step=6: widen by=2 method=r2r", "grow none"]), ("seed", ["seed 0", "seed 1"]),
    (r"-(\d)", ["0", "1"]), ("grown|scratch", ["grown", "scratch"]), (r"(\w)\w*-(\d)", ["g 0", "g 1", "s 0", "s 1"])])
def test_groups(runs, group, labels):
    groups = group_runs(read_runs([runs]), group)
    assert list(groups) == labels and sum(map(len, groups.values())) == 4


@pytest.mark.parametrize("group, message", [
    ("grw", "neither a setting; did you mean grow.* nor found in the name grown-0"),
    ("grown", "found in the name scratch-0"),
    ("(", "unterminated")])
def test_groups_that_leave_a_run_out(runs, group, message):
    with pytest.raises(PlotError, match=message):
        group_runs(read_runs([runs]), group)


def test_runs_whose_settings_are_not_known_are_not_mixed(tmp_path):
    for name in ("s-0", "s-1"):
        event_files(tmp_path / name, [("loss", 1.0, 0)])
    assert list(group_runs(read_runs([tmp_path]))) == ["s-0", "s-1"]


def folder_of(path, *rows, rest=""):
    path.mkdir(parents=True)
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + rest)
    return path


def test_a_line_that_is_being_written_is_waited_for(tmp_path):
    run, = read_runs([folder_of(tmp_path / "a", {"step": 0}, rest='{"step": 1, "va')])
    assert run.rows == [{"step": 0}]


@pytest.mark.parametrize("line", ["{", "[1]", "\x00"])
def test_a_damaged_history_is_refused(tmp_path, line):
    with pytest.raises(PlotError, match="history.jsonl is damaged in line 2"):
        read_runs([folder_of(tmp_path / "a", {"step": 0}, rest=f"{line}\n")])


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words):
    return CliRunner().invoke(main, ["plot", *map(str, words)])


def test_command(runs, tmp_path):
    done = command(runs, "-o", tmp_path / "a.png", "--csv", tmp_path / "a.csv", "--title", "x")
    assert done.exit_code == 0, done.output
    assert "widen by=2 method=r2r at" in done.output and "a.csv" in done.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    groups = group_runs(read_runs([runs]))
    expected = [curve(label, [r.rows for r in members], "flops", "val_accuracy") for label, members in groups.items()]
    assert (tmp_path / "a.csv").read_text() == to_csv(expected) == command(runs, "--csv", "-").output
    curves({label: [r.rows for r in members] for label, members in groups.items()}, tmp_path / "b.png", title="x")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_command_json(runs):
    report = json.loads(command(runs, "-x", "step", "-y", "val_loss", "--json").output)
    grown = report["curves"][0]
    assert (report["x"], report["y"], report["file"]) == ("step", "val_loss", None)
    assert grown["x"] == [0, 3, 6, 6, 9, 12] and grown["growths"] == [{"x": 6.0, "what": "widen by=2 method=r2r"}]
    losses = [[row["val_loss"] for row in map(json.loads, open(runs / f"grown-{s}" / "history.jsonl"))] for s in (0, 1)]
    np.testing.assert_allclose(grown["mean"], np.mean(losses, 0))
    np.testing.assert_allclose(grown["high"], np.mean(losses, 0) + np.std(losses, 0, ddof=1))
    assert grown["last"] == [each[-1] for each in losses]


def test_command_of_runs_of_several_tasks_draws_their_losses(tmp_path):
    for name in ("accuracy", "rmse"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.jsonl").write_text("".join(
            json.dumps({"step": i, "flops": i, "val_loss": 1.0, f"val_{name}": 0.5, "event": ""}) + "\n" for i in range(2)))
    assert json.loads(command(tmp_path, "--json").output)["y"] == "val_loss"
    assert json.loads(command(tmp_path / "rmse", "--json").output)["y"] == "val_rmse"


def test_command_list(runs):
    listed = command(runs, "--list")
    assert listed.exit_code == 0 and "scratch-1" in listed.output and "val_accuracy" in listed.output
    report = json.loads(command(runs / "grown-0" / "tensorboard", "--list", "--json").output)["runs"]
    assert report[0]["source"] == "tensorboard" and {"loss/train", "train_loss", "step"} <= set(report[0]["columns"])


def test_command_bars(runs, tmp_path):
    done = command(runs, "--bars", "-y", "val_loss", "-o", tmp_path / "a.svg", "--csv", tmp_path / "a.csv")
    assert done.exit_code == 0, done.output
    label, run, value = (tmp_path / "a.csv").read_text().splitlines()[2].split(",")
    assert (label, run) == ("grown", "grown-1") and float(value) == read_runs([runs / run])[0].rows[-1]["val_loss"]
    assert b"grown (2)" in (tmp_path / "a.svg").read_bytes()


def test_command_without_flops_runs_over_steps(tmp_path):
    event_files(tmp_path / "[red]$x_1$<b>[b]", [("a[/b]", 2.0, 0), ("a[/b]", 1.0, 1)])
    done = command(tmp_path, "-y", "a[/b]", "-o", tmp_path / "p.pdf")
    assert done.exit_code == 0 and "a[/b] over step" in done.output and "[red]$x_1$<b>[b]" in done.output
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("words, code, message", [
    (["nowhere", "-o", "a.png"], 1, "nowhere is not there"),
    (["file", "-o", "a.png"], 1, "file is a file"),
    (["empty", "-o", "a.png"], 1, "empty: there is no run in it"),
    (["{runs}", "-o", "a.bmp"], 1, "end its name in .png, .svg, .pdf"),
    (["{runs}", "-o", "none/a.png"], 1, "cannot be written"),
    (["{runs}", "-o", "a.png", "--csv", "none/a.csv"], 1, "cannot be written"),
    (["{runs}", "-y", "val_los", "-o", "a.png"], 1, "did you mean val_loss"),
    (["{runs}", "--group", "zzz", "-o", "a.png", "--csv", "a.csv"], 1, "neither a setting"),
    (["{runs}"], 2, "name the picture with -o"),
    (["-o", "a.png"], 2, "Missing argument"),
    (["{runs}", "--csv", "-", "--json"], 2, "choose one"),
    (["{runs}", "--smooth", "1", "-o", "a.png"], 2, "--smooth"),
    (["{runs}", "--band", "se", "-o", "a.png"], 2, "--band")])
def test_a_failed_command_leaves_no_file(runs, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    done = command(*(word.format(runs=runs) for word in words))
    assert done.exit_code == code and message in done.output, done.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]


def test_command_without_tensorboard(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    done = command(runs / "grown-0" / "tensorboard", "--list")
    assert done.exit_code == 1 and "pip install 'fxgrow[plots]'" in done.output
    assert command(runs, "--list").exit_code == 0


def test_confidence_intervals_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(PlotError, match="scipy.*fxgrow"):
        curves({"a": THREE}, band="ci")
