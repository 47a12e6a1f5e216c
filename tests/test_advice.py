"""Every sentence that names a command or an option of the command line: what it names is there, and following it helps."""
from __future__ import annotations

import ast
import configparser
import functools
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fxgrow
from fxgrow.cli.main import main
from fxgrow.models import load_model

ROOT = Path(__file__).parents[1]
NAMES = re.compile(r"(?<![\w-])-(?:-[a-z][a-z-]+|o\b)|\bfxgrow [a-z]+(?:-[a-z]+)*|fxgrow\[")
PROJECT = ("fxgrow archive", "fxgrow cannot", "fxgrow does", "fxgrow reads")  # the project itself, in a sentence

NETS = '''
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        return self.head((self.table(input_ids) * attention_mask.unsqueeze(-1)).sum(1))

class Chooses(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x):
        return self.body(x) if x.sum() > -1e9 else x

def net():
    return Own(), torch.zeros(2, 8)

def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(1, 1, 8, 8)

def image():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)), torch.zeros(1, 3, 6, 6)
'''

TRAIN = "train advised:classifier --data data.npz --steps 4"
SEARCH = ("evolve --preset cpu --model advised:classifier --data data.npz --rounds 1 --keep 1 --children 1 --first-steps 2 "
          "--steps 2 --final-steps 2 --seed 1")
# A fragment of each sentence; then commands, of which those behind `!` fail and say it (`?`: say it), and the others succeed
# (behind `once`: if they have not been run).
FOLLOWED = {
    "load it into the model it belongs to": """
        ! info weights.pt
        info advised:net --weights weights.pt""",
    "load the file into an instance of the class": """
        transform advised:Chooses --input 2,8 --pass widen --factor 2 -o own.pt
        ! info own.pt
        info own.pt --into advised:Chooses""",
    "or, if you trust whoever wrote the file": """
        ! info pickled.pt
        info pickled.pt --trust-pickle""",
    "did both have the same --weights?": """
        ! verify advised:net other.pt
        verify advised:net other.pt --weights weights.pt""",
    "give it weights of before it": """
        ! transform advised:net --weights nan.pt --pass widen --factor 2 -o made.pt
        transform advised:net --weights weights.pt --pass widen --factor 2 -o made.pt""",
    "mend it, or give it other weights": """
        ! transform advised:net --weights infinite.pt --pass widen --factor 2 -o made.pt
        transform advised:net --weights weights.pt --pass widen --factor 2 -o made.pt""",
    "there is no smaller network in it": """
        ! shrink advised:net -o made.pt
        transform advised:net --pass widen --factor 2 -o wide.pt
        shrink wide.pt -o made.pt""",
    "at least one --pass NAME": """
        ! transform advised:net -o made.pt
        passes""",
    "there is no pass": """
        ! transform advised:net --pass widne -o made.pt
        passes""",
    "--pass needs a name": """
        ! transform advised:net -o made.pt --pass
        passes""",
    "more rows: see --explain": """
        transform advised:net --pass widen --factor 2 -o made.pt --explain""",
    "It is an option of a pass": """
        ! transform advised:net --factor 2 --pass widen -o made.pt
        transform advised:net --pass widen --factor 2 -o made.pt""",
    "Did you mean": """
        ! transform advised:net --facto 2 --pass widen -o made.pt
        transform advised:net --pass widen --factor 2 -o made.pt""",
    "is a folder": """
        ! draw advised:net -o .
        draw advised:net -o net.dot""",
    "choose another place with -o": """
        ! draw advised:net -o nowhere/net.dot
        draw advised:net -o net.dot""",
    "--before-weights is for the model of": """
        ! report advised:net -o r.html --before-weights weights.pt
        report advised:net -o r.html --before advised:net --before-weights weights.pt""",
    "--csv and --json: choose one": """
        ! flops advised:net --csv - --json
        flops advised:net --csv -
        flops advised:net --json""",
    "--steps is for --attribution": """
        ! visualize advised:image --what saliency --image photo.png --steps 2 -o made.png
        visualize advised:image --what class --target 1 --steps 2 -o made.png""",
    "--size is one number": """
        ! visualize advised:image --what class --target 1 --size 6,6,6 -o made.png
        visualize advised:image --what class --target 1 --steps 2 --size 6,6 -o made.png""",
    "is for --what": """
        ! visualize advised:image --target 1 -o made.png
        visualize advised:image --what class --target 1 --steps 2 -o made.png""",
    " needs --": """
        ! visualize advised:image --what class -o made.png
        visualize advised:image --what class --target 1 --steps 2 -o made.png""",
    "`fxgrow info MODEL` lists them": """
        ! visualize advised:image --what channel --layer lost -o made.png
        info advised:image""",
    "has no convolution to begin with": """
        ! visualize advised:classifier --what channel -o made.png
        visualize advised:image --what channel --layer 0 --steps 2 -o made.png""",
    "--weights takes the file of a state_dict": """
        ! info advised:net --weights lost.pt
        info advised:net --weights weights.pt""",
    "name each once": """
        ! flops advised:Words --input input_ids=2,5:int64 --input 2,5
        flops advised:Words --input input_ids=2,5:int64 --input attention_mask=2,5""",
    "is no shape; write sizes": """
        ! flops advised:Own --input large
        flops advised:Own --input 2,8""",
    "is no type; the types are": """
        ! flops advised:Own --input 2,8:double
        flops advised:Own --input 2,8:float32""",
    "; it takes ": """
        ! flops advised:Words --input ids=2,5:int64 --input attention_mask=2,5
        flops advised:Words --input input_ids=2,5:int64 --input attention_mask=2,5""",
    "does not say what its inputs are": """
        ! flops advised:Own
        flops advised:Own --input 2,8""",
    "only torchvision and timm models do": """
        ! info advised:net --weights DEFAULT
        info advised:net --weights weights.pt""",
    "has no DEFAULT weights; pass --weights FILE": """
        ! info zoo:mlp:hidden=(4,) --weights DEFAULT
        info zoo:mlp:hidden=(4,) --weights zoo.pt""",
    "say with --input what it takes": """
        ! transform advised:Own --input 2,9 --pass widen --factor 2 -o made.pt
        transform advised:Own --input 2,8 --pass widen --factor 2 -o made.pt""",
    "--into MODEL, or changes": """
        ! grow advised:net -o made.pt
        grow advised:net --into advised:net -o made.pt""",
    "write a name of the configuration and a value": """
        ! grow advised:net --set hidden_size -o made.pt
        grow advised:net --into advised:net -o made.pt""",
    "say where the state_dict goes with -o FILE": """
        ! grow advised:net --into advised:net
        grow advised:net --into advised:net --plan
        grow advised:net --into advised:net -o made.pt""",
    # training
    "--resume goes on with the settings of the run": f"""
        once {TRAIN} -o run
        ! train --resume run --epochs 9
        train --resume run""",
    "name a folder with -o to keep the model": f"""
        ? {TRAIN}
        {TRAIN} -o run4""",
    "give the run one with -o": f"""
        ! {TRAIN} --tensorboard
        {TRAIN} --tensorboard -o run5""",
    "holds a run already": f"""
        once {TRAIN} -o run
        ! {TRAIN} -o run
        train --resume run
        {TRAIN} -o run2""",
    "; go on from step": f"""
        ! {TRAIN} --lr 1e20 -o diverged
        train --resume diverged --lr 0.01""",
    ", or --clip 1": f"""
        ! {TRAIN} --lr 1e20 -o diverged2
        train --resume diverged2 --lr 0.01 --clip 1""",
    "there is no setting": """
        ! train wrong.toml -o run3
        train --help""",
    "which `fxgrow train -o` writes": f"""
        ! plot empty --list
        once {TRAIN} -o run
        plot run --list""",
    "name the picture with -o, or ask": f"""
        once {TRAIN} -o run
        ! plot run
        plot run --list
        plot run --csv -
        plot run --json
        plot run -o made.svg""",
    "neither a setting": f"""
        once {TRAIN} -o run
        ! plot run --group lrr --list
        plot run --group lr --list""",
    "; give a setting or a regular expression": f"""
        once {TRAIN} -o run
        ! plot run --group ( --list
        plot run --group r(.*) --list""",
    # searches
    "say with -o where the search goes": f"""
        ! {SEARCH}
        once {SEARCH} -o search""",
    "goes on with the settings of the search": f"""
        once {SEARCH} -o search
        ! evolve --resume search --rounds 3
        evolve --resume search""",
    "holds a search with other settings": f"""
        once {SEARCH} -o search
        ! {SEARCH} --seed 3 -o search
        evolve --resume search""",
    "name the folder that `fxgrow evolve -o` wrote": f"""
        ! evolve-report run -o made.html
        once {SEARCH} -o search
        evolve-report search -o made.html""",
    "searches compare classifiers": f"""
        ! {SEARCH} --data targets.npz -o search2
        train advised:classifier --data targets.npz --steps 4""",
    "`fxgrow experiment --list` lists them": """
        ! experiment
        experiment --list""",
    "has networks of its own": """
        ! experiment filters --count 2
        experiment neighbours --count 2 --model zoo:mlp --data data.npz --scale small --dry-run""",
}
# Sentences that no command here brings about, by why.
UNREACHED = {
    "--seeds makes whole runs of one process each": "tests/experiments/cli/test_train.py",
    "--stacked is for several runs": "the same",
    "--stacked makes all runs in one process": "the same",
    "leave it out, or --stacked": "tests/experiments/train/test_stacked.py",
    "leave --stacked out": "tests/experiments/train/test_stacked.py",
    "pip install": "what it names is a part of setup.cfg: see test_what_sentences_name_is_there",
    "install the same fxgrow[ray]": "the same",
    "`ray start --head`": "a command of ray",
    "this was not foreseen": "tests/fxgrow/cli/test_main.py raises something",
    "out of memory": "tests/fxgrow/cli/test_main.py raises it",
    "leave that width as it is, or write a state_dict (-o FILE.pth)": "tests/passes/into/test_folders.py: Marian",
    "do the other passes first, into a folder, and --pass experts on that": "no class of mixtures is known to differ so",
    "please report it, and try another --method": "no growth is known to be inexact",
    "Options behind --pass": "a heading",
    "The data set, as for fxgrow train.": "help",
    "interrupted: go on with --resume": "a key was pressed; --resume is followed above",
    "a worker process ended": "as above",
    "holds no trained network that can be read": "as above, of a damaged folder",
    "free space, or put the file back": "as above, of a full disk",
    "fxgrow evolve --resume …": "as above, in the report of a search that has not ended",
    "by the rules of the zoo": "of an experiment, of hours",
    "this experiment has no network for inputs": "of an experiment",
    "so its filters cannot be drawn": "of an experiment",
    "neighbours of this network were found": "of an experiment",
    "is a run with other settings": "of an experiment",
    "makes the sizes that one has (--set NAME=VALUE)": "folders of transformers: tests/passes/into/test_folders.py",
    "alone have experts: name another class (--mixture, kind=)": "tests/passes/into/test_mixtures.py",
    "norm_topk_prob=true": "folders of transformers: tests/passes/into/test_mixtures.py",
    "cannot be written to": "of an experiment",
    "cannot be had": "where there is no network",
}


DONE: dict[Path, set[str]] = {}  # by folder: what has been run there


@functools.cache
def sentences() -> dict[str, str]:
    """Returns the sentences of the packages that name a command or an option, by where they stand."""
    found = {}
    for path in sorted(p for room in ("fxgrow", "experiments", "zoo", "passes") for p in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text())
        apart = {id(part) for node in ast.walk(tree) for kept in no_advice(node) for part in ast.walk(kept)}
        for node in ast.walk(tree):
            if id(node) in apart:
                continue
            text = words_of(node)
            apart |= {id(value) for value in getattr(node, "values", ())} if isinstance(node, ast.JoinedStr) else set()
            if len(text.split()) > 2 and any(m.group() not in PROJECT for m in NAMES.finditer(text)):
                found[f"{path.relative_to(ROOT)}:{node.lineno}"] = text
    return found


def no_advice(node: ast.AST):
    """Yields what is read as help, where examples have a test of their own, and docstrings."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
        yield node.body[0]
    if isinstance(node, ast.Call):
        yield from (k.value for k in node.keywords if k.arg in ("help", "epilog"))


def words_of(node: ast.AST) -> str:
    """Returns the words of a string; what is put into it are dots."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def commands() -> dict[str, click.Command]:
    with click.Context(main) as ctx:
        return {name: main.get_command(ctx, name) for name in main.list_commands(ctx)}


def options() -> set[str]:
    """Returns the options of all commands, and of all passes."""
    from fxgrow.cli.pass_options import loaded_passes, options_of
    params = [p for command in commands().values() for p in command.params]
    passes = [o for cls in loaded_passes(lambda _: None).values() for o in options_of(cls)]
    return {flag for p in (*params, *passes) for flag in (*p.opts, *p.secondary_opts)} | {"--pass", "--help"}


def test_what_sentences_name_is_there():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras, known, named = set(setup["options.extras_require"]), options(), commands()
    wrong = []
    for place, text in sentences().items():
        wrong += [f"{place}: {flag}" for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)
                  if flag not in known and "ray start" not in text]
        wrong += [f"{place}: {m}" for m in re.findall(r"`fxgrow ([a-z-]+)|with fxgrow ([a-z-]+)", text)
                  if not set(m) - {""} <= set(named)]
        wrong += [f"{place}: {extra}" for extra in re.findall(r"fxgrow\[([a-z]+)\]", text) if extra not in extras]
    assert not wrong


def test_examples_of_help_can_be_typed():
    for name, command in commands().items():
        for line in re.findall(r"^ *fxgrow (.*)", command.epilog or "", re.M):
            word, *rest = shlex.split(line)
            commands()[word].make_context(word, rest)
            assert word == name or name in ("report", "shrink", "diff", "zoo"), line


def test_every_sentence_is_followed():
    texts = sentences()
    assert not [f"{p}: {t}" for p, t in texts.items() if not any(part in t for part in (*FOLLOWED, *UNREACHED))]
    assert not [part for part in (*FOLLOWED, *UNREACHED) if not any(part in t for t in texts.values())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("advice")
    (folder / "advised.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import advised
        torch.manual_seed(1)
        model = advised.Own()
        torch.save(model.state_dict(), "weights.pt")
        torch.save({k: v * float("nan") for k, v in model.state_dict().items()}, "nan.pt")
        torch.save({k: v * float("inf") for k, v in model.state_dict().items()}, "infinite.pt")
        torch.save(model, "pickled.pt")
        fxgrow.save(model, "other.pt", example_inputs=torch.zeros(2, 8))
        torch.save(load_model("zoo:mlp:hidden=(4,)")[0].state_dict(), "zoo.pt")
        (folder / "empty").mkdir()
        (folder / "wrong.toml").write_text('model = "advised:classifier"\nstepz = 3\n')
        np.savez("data.npz", images=np.random.default_rng(0).random((96, 1, 8, 8), np.float32), labels=np.arange(96) % 4)
        np.savez("targets.npz", images=np.random.default_rng(0).random((96, 1, 8, 8), np.float32),
                 targets=np.random.default_rng(1).random((96, 4), np.float32))
        yield folder


@pytest.mark.thinned(4)
@pytest.mark.parametrize("part", FOLLOWED)
def test_following_a_sentence_helps(part, folder):
    done = DONE.setdefault(folder, set())
    for line in FOLLOWED[part].strip().splitlines():
        mark, words = line.split(maxsplit=1) if line.split()[0] in ("!", "?", "once") else ("", line)
        if mark == "once" and words in done:
            continue
        done.add(words)
        result = CliRunner().invoke(main, shlex.split(words))
        said = " ".join(result.output.split())
        if mark in ("!", "?"):
            assert " ".join(part.split()) in said, said
        assert (result.exit_code != 0) == (mark == "!"), f"{words}: {said} {result.exception!r}"
