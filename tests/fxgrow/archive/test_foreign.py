"""Files of torch.save: stock models are read, and no code of theirs runs unless they are trusted."""
from __future__ import annotations

import os
import pickle
import subprocess
import zipfile

import pytest
import torch
import torch.nn.functional as F
import torchvision
from archives import IMAGE, Small, refused, same
from support import shake
from torch import nn

import fxgrow
from fxgrow.errors import ArchiveError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.fxgrow"


def test_a_stock_model_is_read_without_trust(path):
    model = shake(torchvision.models.resnet18(num_classes=3)).eval()
    model.layer1.requires_grad_(False)
    torch.save(model, path)
    loaded = fxgrow.load(path)
    assert type(loaded) is torchvision.models.ResNet and not loaded.training
    ours, theirs = ([(n, p.requires_grad) for n, p in m.named_parameters()] for m in (model, loaded))
    assert ours == theirs
    x = torch.randn(IMAGE)
    same(loaded(x), model(x))
    assert fxgrow.capture(loaded, x) is not None


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("build", [
    lambda: torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32), lambda: nn.LSTM(3, 4, 2, bidirectional=True),
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2), lambda: nn.ModuleDict({"a": nn.PReLU()}),
    lambda: pytest.importorskip("timm").create_model("vit_tiny_patch16_224", depth=1, embed_dim=16, num_heads=2)])
def test_partials_functions_and_enumerations_are_read(build, path):
    model = build()
    torch.save(model, path)
    loaded = fxgrow.load(path)
    assert type(loaded) is type(model) and repr(loaded) == repr(model)
    same(dict(loaded.state_dict()), dict(model.state_dict()))


class Evil:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_code_in_a_pickle_never_runs(path, tmp_path):
    mark = tmp_path / "ran"
    model = torchvision.models.resnet18(num_classes=3)
    code = f"open({str(mark)!r}, 'w')"
    for evil in (Evil(os.system, f"touch {mark}"), Evil(eval, code), Evil(exec, code), Evil(open, str(mark), "w"),
                 Evil(subprocess.check_output, ["touch", str(mark)]), Evil(torch.save, 1, str(mark)),
                 Evil(torch.Tensor.numpy, torch.ones(1))):
        for content in (evil, {"weight": torch.ones(2), "x": evil}, nn.Sequential(nn.Linear(2, 2))):
            if isinstance(content, nn.Module):
                content.note = evil
            for name in ("new", "old"):
                torch.save(content, path, _use_new_zipfile_serialization=name == "new")
                message = refused(path)
                assert name == "old" or ("--trust-pickle" in message and "trust_pickle=True" in message)
            path.write_bytes(pickle.dumps(content))
            refused(path)
    assert not mark.exists()
    model.note = Evil(os.system, f"touch {mark}")
    torch.save(model, path)
    assert "system" in refused(path)
    assert not mark.exists()
    assert isinstance(fxgrow.load(path, trust_pickle=True), torchvision.models.ResNet)
    assert mark.exists()  # the file does run code once it is trusted: the test above could have failed


def test_constructors_and_own_forwards_in_a_pickle_are_refused(path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    assert isinstance(fxgrow.load(path), nn.Sequential)
    for evil in (Evil(nn.Linear, 2, 2), Evil(F.relu, torch.ones(1)), Evil(getattr, nn.Linear, "forward")):
        torch.save({"a": evil}, path)
        refused(path)
    for name, value in (("forward", F.relu), ("_forward_hooks", {0: F.relu}), ("__call__", F.relu)):
        model = nn.Sequential(nn.Linear(2, 2))
        vars(model[0])[name] = value
        torch.save(model, path)
        refused(path, "may hold code")


def test_storages_must_be_as_large_as_they_claim(path, tmp_path):
    torch.save(nn.Linear(1000, 1000), path)
    with zipfile.ZipFile(path) as file:
        members = {i.filename: file.read(i) for i in file.infolist()}
    key = max(members, key=lambda n: len(members[n]))
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content[:16] if name == key else content)
    refused(path, "as large as it claims")


def test_tensors_of_a_few_repeated_numbers_are_not_endless(path):
    for name, count in (("small", 1000), ("huge", 2 ** 40)):
        model = nn.Sequential(nn.Linear(2, 2))
        model.register_buffer(name, torch.ones(1).expand(count))
        torch.save(model, path)
        if name == "small":
            assert fxgrow.load(path).small.shape == (1000,)
        else:
            refused(path, "repeated numbers")


def test_torch_files_may_be_damaged_anywhere(path):
    torch.save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), path)
    good = path.read_bytes()
    for place in range(0, len(good), 17):
        for damaged in (good[:place], good[:place] + bytes([good[place] ^ 4]) + good[place + 1:]):
            path.write_bytes(damaged)
            try:
                assert isinstance(fxgrow.load(path), nn.Module)  # zip files have bytes that nobody reads
            except ArchiveError as error:
                assert "\n" not in str(error)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_weights_and_programs_are_told_apart(path):
    model = nn.Sequential(nn.Linear(2, 2))
    torch.save(model.state_dict(), path)
    refused(path, "only weights.*--weights FILE")
    torch.save({"epoch": 3, "model": model.state_dict()}, path)
    refused(path, "only weights")
    torch.save(model.state_dict(), path)
    refused(path, "only weights", trust_pickle=True)
    import safetensors.torch
    safetensors.torch.save_file(model.state_dict(), path)
    refused(path, "only weights")
    torch.save({"a": 1}["a"], path)
    refused(path, "holds a int")
    torch.jit.trace(model, torch.ones(1, 2)).save(path)
    refused(path, "TorchScript")
    torch.export.save(torch.export.export(model, (torch.ones(1, 2),)), path.with_suffix(".pt2"))
    refused(path.with_suffix(".pt2"), "torch.export")
    torch.save(Small(), path)
    refused(path, "Small.*trust_pickle=True")
    torch.save(fxgrow.capture(model, torch.ones(1, 2)), path)
    refused(path, "traced graph.*fxgrow.save")
