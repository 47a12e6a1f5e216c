"""Figures of runs: what is in them, number for number, and where they come from."""
from __future__ import annotations

import json

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.text import Text

from fxgrow.experiments.history import History
from fxgrow.experiments.plots import bars, curves
from fxgrow.experiments.plots_data import PlotError, aligned, curve, smoothed, to_csv

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


def test_rows_without_a_number_are_left_out():
    run = rows([0, 10, 20], [0.1, None, float("nan")]) + rows([30], [0.4])
    line, = lines(curves({"a": [run]}))
    assert line.get_xdata().tolist() == [0, 30]


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
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(PlotError, match=rf"{package}.*pip install 'fxgrow\[plots\]'"):
        curves({"a": THREE})


def test_the_data_as_text():
    c = curve("a, b", [rows([0, 10], [0.25, 0.5])], "flops", "val_accuracy")
    assert to_csv([c]) == 'label,x,mean,low,high,count\n"a, b",0.0,0.25,,,1\n"a, b",10.0,0.5,,,1\n'
    assert json.loads(json.dumps(c.to_json(), allow_nan=False))["low"] == [None, None]
