"""The command line: what each command prints and writes, and one line, exit 1 and no file for each thing that goes wrong."""
from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from commands import run
from torchvision.models.resnet import BasicBlock, ResNet

import fxgrow
from fxgrow.cli import pass_options
from fxgrow.cli.main import main
from fxgrow.passes import Widen

NETS = '''
import torch
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(3, 4)

def normed():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.zeros(3, 4)

class Branchy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:
            return self.layer(x)
        return x

def branchy():
    return Branchy(), torch.zeros(3, 4)
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with models to name: nets_for_cli.py, and model.pt, a small ResNet as torch.save writes it."""
    (tmp_path / "nets_for_cli.py").write_text(NETS)
    torch.save(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5), tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets_for_cli", None)
    return tmp_path


def refused(words: str, folder: Path) -> str:
    """Runs what must fail: exit 1, one line on stderr, nothing on stdout and no new file; gives the line."""
    before = sorted(folder.iterdir())
    result = run(words, code=1)
    assert result.stdout == ""
    assert re.fullmatch(r"error: .+\n", result.stderr), result.stderr
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == [p for p in before if p.name != "__pycache__"]
    return result.stderr


RESNET = "model.pt --input 2,3,32,32"


# --- what works ---------------------------------------------------------------------------------------------------


def test_transform_verify_info_on_a_saved_module(here):
    done = run(f"transform {RESNET} --pass widen --where 'layer1.*' --factor 2 --method r2r --seed 0 -o wide.pt")
    assert re.search(r"parameters +[\d,]+ -> [\d,]+ \(\d\.\d\dx\)", done.stdout)
    assert "exact in eval and train mode" in done.stdout and "wide.pt" in done.stdout
    assert done.stderr == ""
    assert "equal" in run("verify model.pt wide.pt").stdout
    shown = run("info wide.pt").stdout
    assert "2,3,32,32:float32" in shown and "by r2r" in shown and "layer1.0.conv1" in shown


def test_transform_reports_as_json(here):
    report = json.loads(run(f"transform {RESNET} --pass widen --factor 1.5 -o wide.pt --json").stdout)
    assert report["parameters"]["after"] > 1.5 * report["parameters"]["before"]
    assert report["verification"]["ok"] and report["preserves"]
    assert {"name", "before", "after", "method", "reason"} <= report["outcomes"][0].keys()
    assert report["lineage"][0]["pass"] == "widen"
    assert report["file"] == "wide.pt" and (here / "wide.pt").is_file()


def test_passes_chain_in_order_each_with_its_options(here):
    report = json.loads(run("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2 --method net2net --json "
                            "--pass=widen --where 0 --to 20 --method netmorph").stdout)
    assert [(step["method"], step.get("factor"), step.get("to")) for step in report["lineage"]] == [
        ("net2net", 2.0, None), ("netmorph", None, 20)]
    assert fxgrow.load("a.pt").get_submodule("0").weight.shape == (20, 4)


def test_where_is_repeatable_and_explain_shows_every_class(here):
    done = run(f"transform {RESNET} -o a.pt --explain --pass widen --where layer1.0.conv1 --where layer2.0.conv1 --by 4")
    assert "layer1.0.conv1" in done.stdout and "layer2.0.conv1" in done.stdout and "why it is exact" in done.stdout


def test_an_odd_by_is_rounded_up_for_pairs_and_said(here):
    done = run("transform nets_for_cli:mlp -o a.pt --pass widen --where 0 --by 3 --method r2r")
    assert "11 rounded up to 12" in " ".join(done.stdout.split())


def test_random_is_written_and_said_to_preserve_nothing(here):
    done = run("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2 --method random")
    assert "NOT function preserving" in done.stdout and (here / "a.pt").is_file()
    assert "do not compute the same" in run("verify nets_for_cli:mlp a.pt", code=1).stderr
    report = run("verify nets_for_cli:mlp a.pt --json", code=1)
    assert json.loads(report.stdout)["ok"] is False


def test_more_classes_are_written_and_said_to_be_an_extension(here):
    done = run(f"transform {RESNET} --pass widen --where fc --by 3 -o a.pt")
    assert "NOT function preserving: fc has 8 outputs, the first 5 of them as before" in done.stdout
    report = json.loads(run(f"transform {RESNET} --pass widen --where fc --by 3 -o a.pt --json").stdout)
    assert report["verification"]["ok"] and not report["preserves"]


def test_growing_what_was_grown_keeps_the_lineage(here):
    run("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2")
    run("transform a.pt -o b.pt --pass widen --factor 1.5 --method net2net")
    assert [s["method"] for s in json.loads(run("info b.pt --json").stdout)["lineage"]] == ["r2r", "net2net"]
    run("verify nets_for_cli:mlp b.pt")


def test_axes(here):
    assert "layer1.0.conv1" in run(f"axes {RESNET}").stdout
    rows = json.loads(run(f"axes {RESNET} --json").stdout)["classes"]
    assert {"name", "size", "producers", "consumers", "may", "reason"} <= rows[0].keys()


def test_info_needs_no_input(here):
    report = json.loads(run("info model.pt --json").stdout)
    assert report["inputs"] == [] and report["dtypes"] == ["float32", "int64"]
    assert report["bytes"] > 4 * report["parameters"]


def test_verify_of_models_that_take_different_inputs(here):
    said = refused("verify nets_for_cli:mlp model.pt", here)
    assert "model.pt does not run on the input 3,4:float32: conv1 (Conv2d)" in said and "--input" in said


@pytest.mark.parametrize("more", ["", " --input 3,4:float64", " --input 3,4:float32"])
def test_verify_of_models_of_two_types(here, more):
    run("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2")
    fxgrow.save(fxgrow.load("a.pt").double(), "double.pt", example_inputs=torch.randn(3, 4).double())
    for words in ("nets_for_cli:mlp double.pt", "double.pt nets_for_cli:mlp"):
        said = run(f"verify {words}{more}").stdout
        assert "both were compared in float32" in said and "NOT" not in said


def test_passes_lists_options_and_their_help(here):
    assert "--where" in run("passes").stdout
    widen = next(p for p in json.loads(run("passes --json").stdout)["passes"] if p["name"] == "widen")
    options = {o["option"]: o for o in widen["options"]}
    assert {"--where", "--factor", "--to", "--by", "--method", "--init", "--noise", "--fallback", "--seed"} <= set(options)
    assert options["--where"]["repeatable"] and all(o["help"] for o in options.values())


# --- help ---------------------------------------------------------------------------------------------------------


def examples() -> list[str]:
    found = []
    for words in ([], ["transform"], *([c] for c in ("verify", "axes", "info", "passes"))):
        text = CliRunner().invoke(main, [*words, "--help"]).output
        example = text.rpartition("Example:")[2].split("\n\n")[0]
        found.append(" ".join(example.split()))
    return found


def test_each_help_has_an_example_that_runs(here):
    for example in examples():
        program, *words = shlex.split(example)
        assert program == "fxgrow"
        run(words)


def test_version():
    assert fxgrow.__version__ in run("--version").output


def test_help_and_lists_come_without_torch():
    """Of every command that there is."""
    code = ("import sys; from fxgrow.cli.main import main\n"
            "for words in [[], ['--help'], ['--version'], ['passes'], ['passes', '--json'], ['zoo'], ['zoo', '--json'],\n"
            "              *([name, '--help'] for name in main.list_commands(None))]:\n"
            "    main(words or ['-h'], standalone_mode=False)\n"
            "    assert 'torch' not in sys.modules, words\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--factor" in done.stdout and "zoo:cifar_resnet18" in done.stdout and "behind --pass into" in done.stdout


# --- wrong usage: exit 2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, said", [
    ("transform nets_for_cli:mlp --pass widen --factor 2", "--output"),
    ("transform nets_for_cli:mlp -o a.pt", "at least one --pass"),
    ("transform nets_for_cli:mlp -o a.pt --pass wden --factor 2", "did you mean widen"),
    ("transform nets_for_cli:mlp -o a.pt --pass --factor 2", "--pass needs a name"),
    ("transform nets_for_cli:mlp -o a.pt --factor 2 --pass widen", "behind --pass widen"),
    ("transform nets_for_cli:mlp -o a.pt --pass widen --fctor 2", "Did you mean --factor"),
    ("transform nets_for_cli:mlp -o a.pt --pass widen --factor two", "'--factor'"),
    ("transform nets_for_cli:mlp -o a.pt --input 1,x --pass widen --factor 2", "is no shape"),
    ("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2 --method better", "r2r"),
    ("frobnicate", "The commands are"), ("verify a.pt", "AFTER")])
def test_wrong_usage(here, words, said):
    assert said in run(words, code=2).stderr
    assert not (here / "a.pt").exists()


# --- what cannot be done: exit 1, one line, no file ---------------------------------------------------------------


@pytest.mark.parametrize("options, said", [
    ("--where layer1.0.conf1 --factor 2", "layer1.0.conv1"),
    ("--where 'laier*' --factor 2", "laier*"),
    ("--where layer1.0.conv1 --to 3", "64"),
    ("--factor 0.5", "0.5"),
    ("--where layer1.0.conv1 --by 0", "by 0"),
    ("--where layer1.0.conv1", "factor, to and by"),
    ("--factor 2 --init better", "match_std")])
def test_what_widen_cannot_do(here, options, said):
    assert said in refused(f"transform {RESNET} -o a.pt --pass widen {options}", here)


def test_missing_input_shape(here):
    assert "--input 1,3,224,224" in refused("transform model.pt -o a.pt --pass widen --factor 2", here)


@pytest.mark.parametrize("shape", ["1,4,32,32", "1,3,32", "1,3,32,32:int64", "1,3,2,2,2"])
def test_an_input_that_does_not_fit(here, shape):
    said = refused(f"transform model.pt --input {shape} -o a.pt --pass widen --factor 2", here)
    assert f"does not run on the input {shape}" in said and "conv1 (Conv2d): " in said and "--input" in said


def test_inputs_that_are_too_many(here):
    assert "3 were given" in refused("transform model.pt --input '1,3,32,32;1,3' -o a.pt --pass widen --factor 2", here)


def test_what_a_model_prints_stays_out_of_the_report(here):
    Path("loud.py").write_text("from nets_for_cli import mlp as quiet\nprint('one')\ndef mlp():\n    print('two')\n"
                               "    return quiet()\n")
    for words in ("info loud:mlp", "axes loud:mlp", "verify loud:mlp loud:mlp",
                  "transform loud:mlp --pass widen --factor 2 -o a.pt"):
        json.loads(run(words + " --json").stdout)


def test_a_layer_that_no_file_can_hold_is_found_before_the_work(here, monkeypatch):
    monkeypatch.setattr(fxgrow, "transform", None)
    Path("own.py").write_text("from torch import nn, zeros\ndef net():\n    last = nn.Linear(8, 2)\n"
                              "    last.register_forward_hook(lambda module, args, out: out * 2)\n"
                              "    return nn.Sequential(nn.Linear(4, 8), last), zeros(3, 4)\n")
    assert "an archive holds no code" in refused("transform own:net -o a.pt --pass widen --factor 2", here)


def test_an_interrupt_is_one_line(here, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fxgrow, "transform", stop)
    assert "interrupted" in refused("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2", here)


def test_what_a_pass_raises_is_told(here, monkeypatch):
    def bug(self, graph_module):
        raise self.error

    monkeypatch.setattr(Widen, "call", bug)
    for error, said in ((MemoryError(), "out of memory"), (KeyError("deep down"), "KeyError: 'deep down'")):
        monkeypatch.setattr(Widen, "error", error, raising=False)
        assert said in refused("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2", here)


def test_an_untraceable_model_names_the_module_and_the_line(here):
    said = refused("transform nets_for_cli:branchy -o a.pt --pass widen --factor 2", here)
    assert "Branchy" in said and f"nets_for_cli.py:{NETS.splitlines().index('        if x.sum() > 0:') + 1}" in said


def test_a_method_that_the_layer_forbids(here):
    said = refused("transform nets_for_cli:normed -o a.pt --pass widen --where 0 --by 2 --method netmorph --fallback never",
                   here)
    assert "norm" in said


@pytest.mark.parametrize("place", ["absent/a.pt", "model.pt/a.pt", "."])
def test_unwritable_paths_are_found_before_the_work(here, place, monkeypatch):
    monkeypatch.setattr(fxgrow, "transform", None)
    assert "-o" in refused(f"transform nets_for_cli:mlp -o {place} --pass widen --factor 2", here)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device(here):
    assert "No space left" in refused("transform nets_for_cli:mlp -o /dev/full --pass widen --factor 2", here)


def test_a_disk_that_fills_up_while_writing(here):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (here / "a.pt").write_bytes(b"what was there")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        said = refused(f"transform {RESNET} -o a.pt --pass widen --factor 2", here)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "a.pt" in said and (here / "a.pt").read_bytes() == b"what was there"


def test_out_of_memory(here, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 TB")):
        def full(*args, error=error):
            raise error

        monkeypatch.setattr(fxgrow, "transform", full)
        assert "out of memory" in refused("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2", here)


def test_a_bug_is_one_line_too_and_traceback_shows_it(here, monkeypatch):
    def bug(*args):
        raise KeyError("what\nnobody foresaw")

    monkeypatch.setattr(fxgrow, "transform", bug)
    words = "transform nets_for_cli:mlp -o a.pt --pass widen --factor 2"
    assert "--traceback" in refused(words, here)
    result = CliRunner().invoke(main, shlex.split(words + " --traceback"))
    assert isinstance(result.exception, KeyError)


def test_what_is_not_equal_is_not_written(here, monkeypatch):
    def spoil(model, inputs, passes, honest=fxgrow.transform):
        grown = honest(model, inputs, passes)
        with torch.no_grad():
            next(iter(grown.model.parameters())).mul_(2)
        return grown

    monkeypatch.setattr(fxgrow, "transform", spoil)
    said = refused("transform nets_for_cli:mlp -o a.pt --pass widen --factor 2", here)
    assert "does not compute the same" in said and "nothing was written" in said


@pytest.mark.parametrize("content", [b"", b"nonsense" * 9, b"PK\3\4" + b"x" * 99])
def test_files_that_are_no_model(here, content):
    (here / "junk.pt").write_bytes(content)
    assert "cannot load 'junk.pt'" in refused("info junk.pt", here)


# --- what other packages add --------------------------------------------------------------------------------------


@pytest.fixture
def stranger(here):
    """A package with a pass and a command, as pip would leave it."""
    (here / "stranger.py").write_text('''
from __future__ import annotations
from dataclasses import dataclass
import click
from torch.fx.passes.infra.pass_base import PassBase, PassResult

@dataclass
class Nothing(PassBase):
    """Does nothing.

    Args:
        times: how often,
            on two lines.
        loud: say so.
        names: of anything.
    """
    times: int
    loud: bool = False
    names: tuple[str, ...] = ()

    def call(self, graph_module):
        graph_module.meta["seen"] = (self.times, self.loud, self.names)
        return PassResult(graph_module, False)

@click.command()
def hello():
    """Say hello."""
    raise MemoryError
''')
    info = here / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fxgrow.passes]\nnothing = stranger:Nothing\nbroken = stranger:Absent\n"
                                           "[fxgrow.commands]\nhello = stranger:hello\n")
    return here


def test_a_strangers_pass_gets_its_options(stranger):
    cls, given, left = pass_options.parse_pass("nothing", shlex.split("--times 3 --loud --names a --names b -o x.pt"))
    assert given == {"times": 3, "loud": True, "names": ("a", "b")} and left == ["-o", "x.pt"]
    assert pass_options.argument_docs(cls)["times"] == "how often, on two lines."
    assert "Missing option '--times'" in run("transform nets_for_cli:mlp -o a.pt --pass nothing", code=2).stderr
    assert "cannot be imported" in refused("transform nets_for_cli:mlp -o a.pt --pass broken", stranger)


def test_a_strangers_command_is_found_and_its_errors_are_told_alike(stranger):
    assert "Say hello." in run("--help").output
    assert "out of memory" in refused("hello", stranger)


TYPED = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Literal, Optional
from torch.fx.passes.infra.pass_base import PassBase, PassResult

@dataclass
class Typed(PassBase):
    pair: int | tuple[int, int] = 3
    sizes: tuple[int, ...] = ()
    rates: list[float] = field(default_factory=list)
    words: list = field(default_factory=list)
    level: Literal[1, 2, "all"] = 1
    file: Path | None = None
    draw: Callable | None = None

    def call(self, graph_module):
        return PassResult(graph_module, False)

class Plain(PassBase):
    def __init__(self, amount=1.5, *, kind: "Optional[str]" = None):
        self.amount, self.kind = amount, kind

    def call(self, graph_module):
        return PassResult(graph_module, False)

@dataclass
class Needy(Typed):
    draw: Callable = None
    table: dict = None

    def __init__(self, table: dict):
        pass

@dataclass
class Unread(Typed):
    what: "NoSuchType" = None

def function(gm):
    return gm
"""


@pytest.fixture
def typed(here):
    """A package of which two passes are fine, one cannot be used here, and three are broken; a command and a model too."""
    (here / "typedpasses.py").write_text(TYPED)
    info = here / "typedpasses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: typedpasses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fxgrow.passes]\ntyped = typedpasses:Typed\nplain = typedpasses:Plain\nneedy = typedpasses:Needy\n"
        "unread = typedpasses:Unread\nfunction = typedpasses:function\ngone = nosuchpackage:Gone\n"
        "widen = typedpasses:Plain\n[fxgrow.commands]\nbroken = nosuchpackage:command\nodd = typedpasses:function\n")
    yield here
    sys.modules.pop("typedpasses", None)


@pytest.mark.parametrize("words, arrived", [
    ("--sizes 3 --sizes 4", {"sizes": (3, 4)}), ("--rates 1", {"rates": [1.0]}),
    ("--words a --words 2", {"words": ["a", 2]}), ("--level 2", {"level": 2}), ("--level all", {"level": "all"}),
    ("--pair 5", {"pair": 5}),
    ("--pair 5 --pair 6", {"pair": (5, 6)}), ("--file a/b", {"file": Path("a/b")}), ("", {})])
def test_options_arrive_as_their_fields_have_them(typed, words, arrived):
    assert pass_options.parse_pass("typed", shlex.split(words))[1] == arrived


def test_what_an_option_cannot_be_is_refused(typed):
    for words, said in {"typed --pair 1 --pair 2 --pair 3": "takes 2 values", "typed --sizes a": "not a valid integer",
                        "needy": "needs table", "function": "is a function", "unread": "cannot be read"}.items():
        result = CliRunner().invoke(main, shlex.split(f"transform nets_for_cli:mlp -o a.pt --pass {words}"))
        assert result.exit_code and said in result.stderr and "not foreseen" not in result.stderr


def test_a_broken_plugin_is_told_and_the_others_work(typed):
    listed = run("passes")
    assert "typed:" in listed.stdout and "--amount" in listed.stdout and "--factor" in listed.stdout
    assert re.findall(r"left out: .*?pass (\w+)", listed.stderr) == ["function", "gone", "unread"]
    assert "behind --pass typed" in run("transform --help").stdout
    assert "--pass widen" in run("transform nets_for_cli:mlp --factor 2 -o a.pt --pass typed", code=2).stderr
    assert "broken: run it to see why" in run("--help").stdout
    assert "No module named 'nosuchpackage'" in refused("broken --any thing", typed)
    assert "no command" in refused("odd", typed)
    assert pass_options.load_pass("widen") is Widen  # ours keeps its name
    run("transform nets_for_cli:mlp --pass plain --kind x --amount 2 -o a.pt")


def test_the_command_line_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "fxgrow", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("python -m fxgrow, version")


def test_what_to_do_about_a_growth_that_is_not_exact_fits_its_cause(typed):
    state = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).state_dict()
    state["2.bias"][0] = float("nan")
    torch.save(state, "w.pt")
    said = refused("transform nets_for_cli:mlp --weights w.pt --pass widen --factor 2 -o a.pt", typed)
    assert "nets_for_cli:mlp itself has NaN in 2.bias" in said and "report" not in said
    state["2.bias"][0] = 0.0
    state["0.weight"].fill_(1e38)
    state["2.weight"].fill_(1e38)
    torch.save(state, "w.pt")
    ill = "nets_for_cli:mlp itself gives NaN or infinite numbers on such inputs (first 2, a Linear)"
    said = refused("transform nets_for_cli:mlp --weights w.pt --pass widen --factor 2 -o a.pt", typed)
    assert ill in said and "report" not in said
    assert ill in run("verify nets_for_cli:mlp nets_for_cli:mlp --after-weights w.pt", code=1).stderr
    state["0.weight"][0, 0] = float("inf")
    torch.save(state, "w.pt")
    said = refused("transform nets_for_cli:mlp --weights w.pt --pass widen --factor 2 -o a.pt", typed)
    assert "nets_for_cli:mlp itself has NaN or infinite numbers in 0.weight" in said and "--weights FILE" in said
    with open("typedpasses.py", "a") as file:
        file.write("\nTyped.call = lambda self, gm: [p.data.add_(1) for p in gm.parameters()] and PassResult(gm, True)\n")
    sys.modules.pop("typedpasses", None)
    said = refused("transform nets_for_cli:mlp --pass typed -o b.pt", typed)
    assert "Typed: no pass of fxgrow's own, so mend it" in said and "report" not in said


@pytest.mark.parametrize("words", ["passes", "flops nets_for_cli:mlp", "axes nets_for_cli:mlp", "zoo"])
def test_tables_are_as_wide_as_columns_says(here, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "40")
    shown = run(words).stdout.partition("\nforward ")[0].splitlines()  # a line of text behind a table wraps by itself
    assert max(map(len, shown)) <= 40 and "…" not in "".join(shown)


def test_options_of_widen_become_its_arguments():
    words = shlex.split("--where a --where 'b.*' --factor 1.5 --init 0.25 --noise 0 --seed 3")
    cls, given, left = pass_options.parse_pass("widen", words)
    assert cls is Widen and left == []
    assert given == {"where": ["a", "b.*"], "factor": 1.5, "init": 0.25, "noise": 0.0, "seed": 3}
    assert pass_options.parse_pass("widen", ["--init", "kaiming", "--by", "2"])[1] == {"init": "kaiming", "by": 2}
