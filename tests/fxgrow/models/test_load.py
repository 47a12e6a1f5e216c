"""MODEL words: what each form gives, its inputs and its weights, and one clear error for each that gives nothing."""
import argparse
import json

import pytest
import torch
from commands import run
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18, squeezenet1_1

import fxgrow
from fxgrow.errors import ArchiveError, FxgrowError, ModelError
from fxgrow.models import inputs, load_model, parse_inputs, try_out


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def shapes(inputs) -> list[tuple]:
    return [tuple(t.shape) for t in inputs]


@pytest.fixture
def factory(tmp_path, monkeypatch):
    (tmp_path / "nets_of_test_models.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def bare(): return nn.Linear(3, 4)\n"
        "class Named(nn.Linear):\n"
        "    def forward(self, x, *, mask, scale=1): return super().forward(x * mask) * scale\n"
        "def by_name(): return Named(3, 4), {'x': torch.zeros(2, 3), 'mask': torch.ones(2, 1).bool(), 'scale': 2}\n"
        "def told(): return nn.Linear(3, 4), torch.arange(6.0).view(2, 3)\n"
        "def zeros(): return nn.Linear(3, 4), torch.zeros(2, 3)\n"
        "def broken(): raise ValueError('no data here')\n"
        "def wrong(): return 3\n"
        "ready = nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "nets_of_test_models"


@pytest.mark.parametrize("spec, expected", [
    ("torchvision:squeezenet1_1", [(1, 3, 224, 224)]), ("torchvision:inception_v3", [(1, 3, 299, 299)]),
    ("torchvision:lraspp_mobilenet_v3_large", [(1, 3, 224, 224)]), ("torchvision:r3d_18", [(1, 3, 16, 112, 112)]),
    ("timm:mobilenetv3_small_050", [(1, 3, 224, 224)])])
def test_library_models_know_their_inputs(spec, expected):
    model, inputs = load_model(spec)
    assert shapes(inputs) == expected
    assert not model.training


@pytest.mark.parametrize("spec, shape, parameters", [
    ("zoo:mlp", (1, 1, 28, 28), 269_322), ("zoo:cifar_resnet18", (1, 3, 32, 32), 1_423_178),
    ("zoo:cifar_resnet18:r=2**-3,num_classes=7,in_channels=1,stem=3", (1, 1, 32, 32), None),
    ("zoo:mlp:input_shape=(1,40),hidden=(8,)", (1, 1, 40), 40 * 8 + 8 + 8 * 10 + 10)])
def test_zoo_models_with_options(spec, shape, parameters):
    model, inputs = load_model(spec)
    assert shapes(inputs) == [shape] and not model.training
    assert parameters in (None, sum(p.numel() for p in model.parameters()))
    assert same(model, load_model(spec)[0]) and not same(model, load_model(spec, seed=1)[0])


@pytest.mark.parametrize("spec, why", [
    ("zoo:cifar_resnt18", "no model 'cifar_resnt18'; the nearest are cifar_resnet18"), ("zoo:mlp:r", "are no options"),
    ("zoo:mlp:hiden=(3,)", "no option 'hiden'; the nearest are hidden"), ("zoo:mlp:r=0", "a positive number"),
    ("zoo:mlp:r=__import__('os')", "no number or literal")])
def test_zoo_names_that_name_nothing(spec, why):
    with pytest.raises(ModelError, match=why):
        load_model(spec)
    with pytest.raises(ModelError, match="has no DEFAULT weights"):
        load_model("zoo:mlp", weights="DEFAULT")


@pytest.mark.parametrize("spec, shape, last", [
    ("torchvision:resnet18?num_classes=10", (1, 3, 224, 224), (10, 512)),
    ("torchvision:resnet18:num_classes=7", (1, 3, 224, 224), (7, 512)),
    ("timm:test_resnet?num_classes=5&in_chans=1&global_pool=max", (1, 1, 160, 160), (5, 96)),
    ("torch.nn:Linear?in_features=3&out_features=2**3", None, (8, 3)),
    ("zoo:mlp?hidden=(6,5)", (1, 1, 28, 28), (10, 5))])
def test_options_behind_a_name(spec, shape, last):
    module, x = load_model(spec, need_inputs=False)
    *_, weight = (p for p in module.parameters() if p.ndim == 2)
    assert weight.shape == last and (not x or shapes(x) == [shape])


@pytest.mark.parametrize("spec, why", [
    ("torchvision:resnet18?classes=10", "raised TypeError.*classes"), ("timm:test_resnet?num_classes", "are no options"),
    ("torch.nn:Linear?in_features=3&out_features=__import__('os')", "no number or literal")])
def test_options_that_say_nothing(spec, why):
    with pytest.raises(ModelError, match=why):
        load_model(spec)


def test_detectors_take_a_list_of_images():
    model, (images,) = load_model("torchvision:ssdlite320_mobilenet_v3_large")
    assert shapes(images) == [(3, 320, 320)]
    with torch.no_grad():
        assert set(model(images)[0]) == {"boxes", "scores", "labels"}
    assert shapes(load_model("torchvision:ssdlite320_mobilenet_v3_large", input_shape="3,64,64")[1][0]) == [(3, 64, 64)]


def test_one_name_means_one_network_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second = load_model("torchvision:squeezenet1_1")[0], load_model("torchvision:squeezenet1_1")[0]
    assert same(first, second)
    assert torch.equal(before, torch.get_rng_state())
    assert not same(first, load_model("torchvision:squeezenet1_1", seed=1)[0])


@pytest.mark.parametrize("spec, near", [("torchvision:resnt50", "resnet50"),
                                        ("timm:mobilnetv3_small_050", "mobilenetv3_small_050")])
def test_unknown_names_get_the_nearest(spec, near):
    with pytest.raises(ModelError, match=f"has no model.*{near}"):
        load_model(spec)


@pytest.mark.parametrize("spec", ["zoo:nothing_called_so", "no_such_file.pt", "no_such_package:factory", "torchvision"])
def test_what_names_nothing_is_one_clear_error(spec):
    with pytest.raises(ModelError, match="MODEL is a file|has no model"):
        load_model(spec)


def test_a_near_file_name_is_offered(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ModelError, match="did you mean .*model.pt"):
        load_model(str(tmp_path / "modle.pt"))


def test_weights_from_a_file(tmp_path):
    other = squeezenet1_1()
    torch.save(other.state_dict(), tmp_path / "w.pth")
    torch.save({"epoch": 3, "state_dict": other.state_dict()}, tmp_path / "checkpoint.pth")
    save_file(other.state_dict(), tmp_path / "w.safetensors")
    torch.save(other, tmp_path / "module.pth")
    torch.save({"model": None, "ema": other}, tmp_path / "ema.pth")
    fxgrow.save(other, tmp_path / "ours.pth", example_inputs=torch.zeros(1, 3, 64, 64))
    for name in ("w.pth", "checkpoint.pth", "w.safetensors", "module.pth", "ema.pth", "ours.pth"):
        assert same(load_model("torchvision:squeezenet1_1", weights=str(tmp_path / name))[0], other)
    with pytest.raises(ModelError, match="does not fit MobileNetV3"):
        load_model("torchvision:mobilenet_v3_small", weights=str(tmp_path / "w.pth"))


WRAPPED = {
    "of DataParallel": lambda state: {f"module.{n}": t for n, t in state.items()},
    "compiled": lambda state: {f"_orig_mod.{n}": t for n, t in state.items()},
    "compiled, distributed": lambda state: {"model": {f"module._orig_mod.{n}": t for n, t in state.items()}, "epoch": 1},
    "compiled inside": lambda state: {n.replace("features.", "features._orig_mod."): t for n, t in state.items()},
    "of the tutorial": lambda state: {"model_state_dict": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "of Lightning": lambda state: {"state_dict": {"w": torch.ones(2), **{f"model.net.{n}": t for n, t in state.items()}}},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{n}": t for n, t in state.items()}},
    "with a mean": lambda state: {"state_dict_ema": {n: t + 1 for n, t in state.items()}, "state_dict": state},
    "with arguments": lambda state: {"args": argparse.Namespace(lr=0.1), "net": state},
    "deep down": lambda state: {"checkpoint": {"nets": {"params_ema": state}}},
}


@pytest.mark.filterwarnings("ignore:.*took")
@pytest.mark.parametrize("case", WRAPPED)
def test_checkpoints_of_trainers(case, tmp_path):
    other = squeezenet1_1()
    torch.save(WRAPPED[case](other.state_dict()), tmp_path / "w.pth")
    assert same(load_model("torchvision:squeezenet1_1", weights=str(tmp_path / "w.pth"))[0], other)


def test_which_of_several_was_taken_is_told(tmp_path):
    state = squeezenet1_1().state_dict()
    torch.save({"params_ema": state, "params": state}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="took 'params' and left 'params_ema'"):
        load_model("torchvision:squeezenet1_1", weights=str(tmp_path / "w.pth"))
    said = run(f"flops torchvision:squeezenet1_1 --input 1,3,32,32 --weights '{tmp_path / 'w.pth'}' --json")
    assert "w.pth: took 'params' and left 'params_ema'" in said.stderr and json.loads(said.stdout)


def test_shards(tmp_path):
    other = squeezenet1_1()
    names = list(other.state_dict())
    for k, part in enumerate((names[:9], names[9:])):
        save_file({n: other.state_dict()[n] for n in part}, tmp_path / f"model-{k}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: f"model-{int(k >= 9)}.safetensors" for k, n in enumerate(names)}}))
    assert same(load_model("torchvision:squeezenet1_1", weights=str(index))[0], other)
    index.write_text("[]")
    with pytest.raises(ModelError, match="no index of shards"):
        load_model("torchvision:squeezenet1_1", weights=str(index))


def test_a_checkpoint_that_does_not_fit_names_what_it_has(tmp_path):
    state = {f"net.{n}": t for n, t in squeezenet1_1(num_classes=7).state_dict().items()}
    torch.save({"params": {**state, "net.more": torch.ones(1)}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="under 'params', behind 'net.', the model has no more and it has other sizes"):
        load_model("torchvision:squeezenet1_1", weights=str(tmp_path / "w.pth"))
    torch.save({n: t for n, t in resnet18().state_dict().items() if n != "fc.bias"}, tmp_path / "r.pth")
    with pytest.raises(ModelError, match="ResNet: it has no fc.bias$"):  # the first of its names ends others, too
        load_model("torchvision:resnet18", weights=str(tmp_path / "r.pth"))


def test_weights_that_are_none(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"nothing")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(Mine(), tmp_path / "module.pth")
    for name, why in (("w.pth", "no state_dict"), ("list.pth", "no state_dict"), ("module.pth", "without running code"),
                      ("absent.pth", "no file here")):
        with pytest.raises(ModelError, match=why):
            load_model("torchvision:squeezenet1_1", weights=str(tmp_path / name))


def test_default_weights_without_a_network_say_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("<urlopen error>")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable, raising=False)
    with pytest.raises(ModelError, match="DEFAULT weights of torchvision:squeezenet1_1 cannot be had.*--weights FILE"):
        load_model("torchvision:squeezenet1_1", weights="DEFAULT")


def test_default_weights_of_what_has_none(factory):
    with pytest.raises(ModelError, match="has no DEFAULT weights"):
        load_model(f"{factory}:bare", weights="DEFAULT")


def test_factories(factory):
    assert shapes(load_model(f"{factory}:bare", input_shape="5,3")[1]) == [(5, 3)]
    assert torch.equal(load_model(f"{factory}:told")[1][0], torch.arange(6.0).view(2, 3))
    assert load_model(f"{factory}:zeros")[1][0].std() > 0  # a constant input tells too little to compare on
    assert isinstance(load_model(f"{factory}:ready", need_inputs=False)[0], nn.Linear)
    for name, why in (("bare", "--input 1,3,224,224"), ("broken", "raised ValueError: no data here"),
                      ("wrong", "gave a int"), ("absent", "raised AttributeError")):
        with pytest.raises(ModelError, match=why):
            load_model(f"{factory}:{name}")


def test_an_installed_package_adds_a_prefix(factory, tmp_path):
    (tmp_path / "hall.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def load(name, pretrained):\n"
        "    return nn.Linear(len(name), 2), torch.randn(1, len(name)) if not pretrained else None\n"
        "def wrong(name, pretrained): return name\n")
    info = tmp_path / "hall-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hall\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fxgrow.models]\nhall = hall:load\nruin = hall:absent\nwrong = hall:wrong\n")
    model, (x,) = load_model("hall:abc")
    assert model.in_features == 3 and model(x).shape == (1, 2)
    with pytest.raises(ModelError, match="does not say what its inputs are"):
        load_model("hall:abc", weights="DEFAULT")
    with pytest.raises(ModelError, match="MODEL is a file, torchvision:NAME, timm:NAME, hall:NAME, ruin:NAME, wrong"):
        load_model("holl:abc")
    with pytest.raises(ModelError, match="wrong:abc gave a str"):
        load_model("wrong:abc")
    with pytest.raises(FxgrowError, match="the source of ruin:NAME .hall:absent. cannot be imported.*uninstall"):
        load_model("ruin:abc")


def test_our_files_know_their_inputs(tmp_path):
    file = str(tmp_path / "m.pt")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    fxgrow.save(model, file, example_inputs=torch.zeros(5, 3, dtype=torch.float64))
    loaded, inputs = load_model(file)
    assert [(tuple(t.shape), t.dtype) for t in inputs] == [((5, 3), torch.float64)]
    assert torch.equal(loaded(*inputs), model(*inputs))


def test_pickles_need_trust(tmp_path):
    torch.save(squeezenet1_1(), tmp_path / "stock.pt")
    torch.save(Mine(), tmp_path / "mine.pt")
    with pytest.raises(ModelError, match="--input"):
        load_model(str(tmp_path / "stock.pt"))
    with pytest.raises(ArchiveError, match="--trust-pickle"):
        load_model(str(tmp_path / "mine.pt"), input_shape="1,2")
    model, inputs = load_model(str(tmp_path / "mine.pt"), input_shape="1,2", trust_pickle=True)
    assert model(*inputs).shape == (1, 2)


class Mine(nn.Module):
    def forward(self, x):
        return x + 1


def test_inputs_by_hand():
    first, second = parse_inputs("1,3,8,8;1,10:int64")
    assert (first.shape, first.dtype, second.shape, second.dtype) == ((1, 3, 8, 8), None, (1, 10), torch.int64)
    drawn = inputs.draw_inputs([first, second], torch.float64)
    assert [t.dtype for t in drawn] == [torch.float64, torch.int64]
    assert drawn[1].max() <= 1 and drawn[1].min() >= 0


@pytest.mark.parametrize("text", ["", "1,3,x", "1,,3", "1,0,3", "1,3:int65", "1,3;", "-1,3", "=1,3", "2a=1,3", "a=", "1,3:"])
def test_inputs_that_are_none(text):
    with pytest.raises(ModelError, match="--input"):
        parse_inputs(text)


def test_inputs_by_name():
    read = parse_inputs(["ids=2,5:int64", " mask = 2, 5 : bool ;scale=1"])
    assert {name: (i.shape, i.dtype) for name, i in read.items()} == {
        "ids": ((2, 5), torch.int64), "mask": ((2, 5), torch.bool), "scale": ((1,), None)}
    drawn = inputs.draw_inputs(read, torch.float64)
    assert {name: t.dtype for name, t in drawn.items()} == {"ids": torch.int64, "mask": torch.bool, "scale": torch.float64}
    assert inputs.describe(drawn) == "ids=2,5:int64;mask=2,5:bool;scale=1:float64"
    assert parse_inputs(inputs.describe(drawn)).keys() == read.keys()


@pytest.mark.parametrize("texts", [["ids=2,5:int64", "2,5"], ["2,5;mask=2,5"], ["ids=2,5", "ids=3,5"]])
def test_each_input_has_a_name_of_its_own_or_none_has(texts):
    with pytest.raises(ModelError, match="name each once, as --input input_ids=1,16:int64"):
        parse_inputs(texts)


def test_models_take_inputs_by_name(factory):
    model, drawn = load_model(f"{factory}:by_name")
    assert drawn["scale"] == 2 and drawn["x"].std() > 0 and shapes([drawn["x"], drawn["mask"]]) == [(2, 3), (2, 1)]
    try_out("it", model, drawn)
    _, drawn = load_model(f"{factory}:by_name", input_shape=("x=5,3", "mask=5,1:bool"))
    assert shapes(drawn.values()) == [(5, 3), (5, 1)]
    with pytest.raises(ModelError, match="Named takes no 'y'; .*it takes x, mask, scale"):
        load_model(f"{factory}:by_name", input_shape=["y=5,3"])
    with pytest.raises(ModelError, match="does not run on the input x=5,4:float32;mask=5,1:bool"):
        try_out("it", model, load_model(f"{factory}:by_name", input_shape=["x=5,4", "mask=5,1:bool"])[1])
