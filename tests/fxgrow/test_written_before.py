"""Archives, pickles and weights that fxgrow 0.1.0 wrote: they load, compute what they did, and are written as they were.

The files and what was computed then are in tests/data/written_before; its README.md says how they were made.
"""
from __future__ import annotations

import copy
import gzip
import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import nn
from torch.fx import GraphModule

import fxgrow
from fxgrow.errors import ArchiveError
from fxgrow.passes import Widen
from fxgrow.zoo import create_model

DATA = Path(__file__).parents[1] / "data" / "written_before"
KNOWN = json.loads((DATA / "archives.json").read_text(encoding="utf-8"))
ARCHIVES = [name for name, told in KNOWN.items() if "info" in told]
GROWN = [name for name in ARCHIVES if KNOWN[name]["lineage"]]
DROPPED = 2  # which output of `captured` went through a dropout


@pytest.fixture
def unpacked(tmp_path):
    """The path of a file, unpacked."""
    def unpack(name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.decompress((DATA / "archives" / f"{name}.gz").read_bytes()))
        return path
    return unpack


def arrays(name: str) -> dict[str, torch.Tensor]:
    """Inputs and what was computed of them."""
    with np.load(DATA / "archives" / f"{name}.npz") as held:
        return {key: torch.from_numpy(held[key]) for key in held.files}


def numbered(held: dict[str, torch.Tensor], prefix: str) -> list[torch.Tensor]:
    return [held[f"{prefix}{i}"] for i in range(len(held)) if f"{prefix}{i}" in held]


def inputs_of(name: str, held: dict[str, torch.Tensor]) -> tuple:
    given = numbered(held, "input_")
    return (given,) if name == "detector" else tuple(given)  # a detector takes a list of pictures


def computed(model: nn.Module, inputs: tuple, mode: bool) -> list[torch.Tensor]:
    """What a copy of the model gives, as a flat list."""
    with torch.no_grad():
        return torch.utils._pytree.tree_leaves(copy.deepcopy(model).train(mode)(*inputs))


def assert_same(found: list[torch.Tensor], told: list[torch.Tensor]) -> None:
    """To a relative error of 1e-9 of the largest number; whole numbers exactly."""
    assert len(found) == len(told) > 0
    for a, b in zip(found, told):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert (a - b).abs().max() <= (1e-9 * b.abs().max() if b.is_floating_point() else 0)


def assert_as_told(name: str, model: nn.Module, held: dict[str, torch.Tensor], prefix: str = "") -> None:
    """The model gives in both modes what is kept under `prefix`."""
    inputs = inputs_of(name, held)
    for mode, key in ((False, "eval"), (True, "train")):
        told = numbered(held, f"{prefix}{key}_")
        if not told and mode:  # a detector in train mode asks for boxes
            continue
        found = computed(model, inputs, mode)
        if name == "captured" and mode:
            del found[DROPPED], told[DROPPED]
        assert_same(found, told)


def command(*words: object) -> str:
    """What a command of `fxgrow` prints; it is found as the installed script finds it."""
    main = next(iter(entry_points(group="console_scripts", name="fxgrow"))).load()
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, f"{result.output}\n{result.stderr}\n{result.exception!r}"
    return result.stdout


# --- archives -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_computes_what_it_did(name, unpacked):
    told, model = KNOWN[name], fxgrow.load(unpacked(f"{name}.fxgrow"))
    assert_as_told(name, model, arrays(name))
    known = model.meta["fxgrow"]
    assert (type(model).__name__, sum(p.numel() for p in model.parameters())) == (told["class"], told["parameters"])
    assert [list(shape) for shape in known["input_shapes"]] == told["input_shapes"]
    assert [str(dtype) for dtype in known["input_dtypes"]] == told["input_dtypes"]


@pytest.mark.parametrize("name", [*ARCHIVES, "small"])
def test_an_archive_is_written_as_it_was(name, unpacked, tmp_path):
    """Bit by bit, certificate and the small network's structure included. Searches live on it: they name networks by it."""
    path = unpacked(f"{name}.fxgrow")
    fxgrow.save(fxgrow.load(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", GROWN)
def test_a_record_says_what_it_did_and_gives_the_small_network_back(name, unpacked):
    told, held, model = KNOWN[name], arrays(name), fxgrow.load(unpacked(f"{name}.fxgrow"))
    record = model.meta["growth"]["record"]
    assert (record.lineage, sorted(record.removed)) == (told["lineage"], told["removed"])
    assert {n: int(record.new_mask(n, p).sum()) for n, p in model.named_parameters()} == told["new"]
    small = record.shrink(model)
    assert {n: list(t.shape) for n, t in small.state_dict().items()} == told["small"]
    assert_same([torch.cat([t.double().flatten() for t in small.state_dict().values()])], [held["small_numbers"]])
    assert_as_told(name, small, held, "small_")
    assert fxgrow.verify(small, model, inputs_of(name, held)).ok


@pytest.mark.parametrize("name", ["captured", "r2r", "attention", "recurrent", "detector"])
def test_an_archive_grows_on(name, unpacked):
    told, held, model = KNOWN[name], arrays(name), fxgrow.load(unpacked(f"{name}.fxgrow"))
    inputs = inputs_of(name, held)
    grown = fxgrow.transform(model, inputs, Widen(factor=2, seed=0))
    assert fxgrow.verify(model, grown.model, inputs).ok
    assert sum(p.numel() for p in grown.model.parameters()) > told["parameters"]
    if name == "detector":  # what a shell knows of its growth stays behind when it grows on
        return
    assert grown.record.lineage[:-1] == told["lineage"]
    first = grown.record.shrink(grown.model)  # the network at the beginning of the whole record
    assert_as_told(name, first, held, "small_" if told["lineage"] else "")


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_command_line_tells_the_same_of_an_archive(name, unpacked):
    told = json.loads(command("info", unpacked(f"{name}.fxgrow"), "--json"))
    del told["model"]
    assert told == KNOWN[name]["info"]


def test_the_command_line_shrinks_and_compares(unpacked, tmp_path):
    grown, small = unpacked("r2r.fxgrow"), tmp_path / "small"
    told = json.loads(command("shrink", grown, "-o", small, "--json"))
    assert told["lineage"] == KNOWN["r2r"]["lineage"] and told["verification"]["ok"]
    assert "equal" in command("verify", small, grown)
    assert_as_told("r2r", fxgrow.load(small), arrays("r2r"), "small_")


def test_what_a_captured_network_holds_beside_its_numbers(unpacked):
    held, model = arrays("captured"), fxgrow.load(unpacked("captured.fxgrow"))
    assert model.meta["fxgrow"]["extra"] == {"note": ("a", 1.5), "epochs": [3]}
    assert model.head.weight is model.embed.weight and "shift" not in model.state_dict()
    rate, = (node.kwargs["p"] for node in model.graph.nodes if node.target is nn.functional.dropout)
    one, other = (_dropped(model, inputs_of("captured", held), seed) for seed in (0, 1))
    kept = (one != 0) & (other != 0)
    assert rate == 0.25 and not torch.equal(one, other) and kept.any() and torch.equal(one[kept], other[kept])


def _dropped(model: nn.Module, inputs: tuple, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return computed(model, inputs, True)[DROPPED]


def test_the_layers_in_an_archive_are_those_of_this_package(unpacked):
    from fxgrow import layers
    assert isinstance(fxgrow.load(unpacked("attention.fxgrow")).attention, layers.MultiheadAttention)
    for name, functions in {"captured": {"by_mode"}, "folded": {"fold_pairs"},
                            "shuffled": {"fold_copies", "unfold_copies"}}.items():
        called = {node.target for node in fxgrow.load(unpacked(f"{name}.fxgrow")).graph.nodes}
        assert {getattr(layers, function) for function in functions} <= called
    detector = fxgrow.load(unpacked("detector.fxgrow"))
    assert not isinstance(detector, GraphModule) and isinstance(detector.backbone, GraphModule)
    zoo = fxgrow.load(unpacked("zoo.fxgrow")).nets
    assert isinstance(zoo.mlp, type(create_model("mlp")))


# --- pickles ------------------------------------------------------------------------------------------------------------


def test_pickled_networks_of_the_zoo_are_read_without_trust(unpacked):
    held, nets = arrays("zoo-pickled"), fxgrow.load(unpacked("zoo-pickled.pt"))
    x, = numbered(held, "input_")
    with torch.no_grad():
        found = [net(x.mean(2) if name == "resnet1d" else x) for name, net in nets.items()]
    assert_same(found, numbered(held, "eval_"))
    names = {name: where.rpartition(".")[2] for name, where in KNOWN["zoo-pickled"]["classes"].items()}
    assert {name: type(nets.get_submodule(name)).__name__ for name in names} == names
    for name, model in {"mlp": "mlp", "resnet": "cifar_resnet10", "resnet1d": "resnet1d", "residual3": "residual3",
                        "planned": "inception_v4_small"}.items():
        assert type(nets[name]) is type(create_model(model))


def test_pickled_layers_are_read_without_trust(unpacked):
    from fxgrow import layers
    held, nets = arrays("layers-pickled"), fxgrow.load(unpacked("layers-pickled.pt"))
    x, = numbered(held, "input_")
    with torch.no_grad():
        assert_same([nets["attention"](x, x, x, need_weights=False)[0], nets["encoder"](x)], numbered(held, "eval_"))
    assert isinstance(nets["attention"], layers.MultiheadAttention) and nets["encoder"].chosen is layers.by_mode


def test_a_pickled_grown_network_is_read_once_it_is_trusted(unpacked):
    """torch.save writes what is noted on the graph as well: the growth record and the outcomes, by their classes' names."""
    path = unpacked("grown-pickled.pt")
    with pytest.raises(ArchiveError, match="traced graph"):
        fxgrow.load(path)
    model = fxgrow.load(path, trust_pickle=True)
    assert sum(p.numel() for p in model.parameters()) == KNOWN["grown-pickled"]["parameters"]
    assert_as_told("grown-pickled", model, arrays("grown-pickled"))


# --- weights ------------------------------------------------------------------------------------------------------------


def test_weights_for_a_bigger_network(unpacked):
    """What `fxgrow grow` wrote, as torch's file and as safetensors."""
    held, big = arrays("grown-into"), KNOWN["grown-into"]["model"]
    small, pth, tensors = (unpacked(name) for name in ("small.fxgrow", "grown-into.pth", "grown-into.safetensors"))
    for state in (torch.load(pth, weights_only=True), safetensors.torch.load_file(tensors)):
        model = create_model("mlp", hidden=(7,), input_shape=(1, 2, 3), num_classes=3)
        model.load_state_dict(state, strict=True)
        assert_as_told("grown-into", model.double(), held)
    assert_as_told("grown-into", fxgrow.load(small).double(), held)
    for weights in (pth, tensors):
        assert "equal" in command("verify", small, big, "--after-weights", weights)
