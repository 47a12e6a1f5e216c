"""What stands for the code of a layer makes the ATen calls of that code, and makes none where only that code tells."""
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxgrow.aten import Watching, call_layer, compute

IMAGE, ROWS, TOKENS, VOLUME = (2, 4, 6, 6), (2, 4), (2, 5, 4), (2, 4, 5, 6, 7)
LAYERS = [
    (nn.Conv2d(4, 8, 3, padding=1), IMAGE), (nn.Conv2d(4, 8, (3, 1), (2, 1), bias=False), IMAGE),
    (nn.Conv2d(4, 8, 3, dilation=2, groups=2), IMAGE), (nn.Conv1d(5, 7, 3), TOKENS), (nn.Conv3d(4, 6, 2), VOLUME),
    (nn.BatchNorm2d(4), IMAGE), (nn.BatchNorm2d(4, eps=1e-3, momentum=None), IMAGE), (nn.BatchNorm3d(4), VOLUME),
    (nn.LayerNorm(4), TOKENS), (nn.LayerNorm((6, 6), bias=False), IMAGE),
    (nn.Linear(4, 3), ROWS), (nn.Linear(4, 3, bias=False), ROWS), (nn.Linear(4, 3), TOKENS),
    (nn.Linear(4, 3, bias=False), TOKENS), (nn.Linear(6, 3), IMAGE), (nn.Linear(7, 3, bias=False), VOLUME)]


class _Log(Watching):
    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = compute(func, args, kwargs or {})
        if func is not torch.ops.aten.empty.memory_format:  # what a batch norm keeps for cuDNN
            self.calls.append((func, [_form(a) for a in args], kwargs or {}))
        return out


def _form(value):
    return (value.shape, value.stride(), value.dtype, value._is_view()) if isinstance(value, Tensor) else value


def _seen(call) -> tuple:
    with torch.no_grad(), _Log() as log:
        out = call()
    return _form(out), log.calls


def _on_meta(layer: nn.Module, shape, **more) -> tuple[nn.Module, Tensor]:
    return layer.to("meta").eval(), torch.empty(shape, device="meta", **more)


@pytest.mark.parametrize("layer, shape", LAYERS)
def test_makes_the_calls_of_the_layer(layer, shape):
    layer, x = _on_meta(layer, shape)
    assert _seen(lambda: layer(x)) == _seen(lambda: call_layer(layer, (x,), {}))


def _calls_nothing(layer, x) -> bool:
    out, calls = _seen(lambda: call_layer(layer, (x,), {}))
    return out is None and not calls


@pytest.mark.parametrize("layer, shape, more", [
    (nn.Conv2d(4, 8, 3, padding="same"), IMAGE, {}), (nn.Conv2d(4, 8, 3, padding_mode="circular"), IMAGE, {}),
    (nn.Conv2d(4, 8, 3), IMAGE[1:], {}), (nn.Conv2d(3, 8, 3), IMAGE, {}), (nn.BatchNorm2d(4), ROWS, {}),
    (nn.BatchNorm2d(3), IMAGE, {}), (nn.BatchNorm2d(4, affine=False), IMAGE, {}),
    (nn.BatchNorm2d(4, track_running_stats=False), IMAGE, {}), (nn.Linear(4, 3), (4,), {}), (nn.Linear(3, 3), ROWS, {}),
    (nn.Linear(4, 3), (0, 4), {}), (nn.Linear(4, 3), ROWS, {"dtype": torch.float64}), (nn.LayerNorm(5), TOKENS, {}),
    (nn.LayerNorm(4, elementwise_affine=False), TOKENS, {}), (nn.ReLU(), IMAGE, {})])
def test_leaves_others_to_their_code(layer, shape, more):
    assert _calls_nothing(*_on_meta(layer, shape, **more))


def test_leaves_what_others_changed_to_their_code(monkeypatch):
    layer, x = _on_meta(nn.Linear(4, 3), ROWS)
    assert not _calls_nothing(layer, x)
    assert call_layer(layer, (x,), {}) is None  # no mode watches
    with torch.enable_grad(), _Log():
        assert call_layer(layer, (x,), {}) is None
    handle = layer.register_forward_hook(lambda *given: None)
    assert _calls_nothing(layer, x)
    handle.remove()
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *given: None)
    assert _calls_nothing(layer, x)
    handle.remove()
    layer.forward = lambda x: x
    assert _calls_nothing(layer, x)
    del layer.forward
    for place, name in ((nn.Linear, "forward"), (F, "linear")):
        with monkeypatch.context() as changed:
            changed.setattr(place, name, lambda *given: None)
            assert _calls_nothing(layer, x)
    assert _calls_nothing(nn.BatchNorm2d(4, device="meta"), torch.empty(IMAGE, device="meta"))  # in train mode
    assert _calls_nothing(nn.Linear(4, 3).eval(), torch.empty(ROWS, device="meta"))  # its numbers are there
    assert not _calls_nothing(layer, x)
