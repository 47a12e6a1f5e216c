"""What counting does about checkpoints, gradients in a forward, and models that don't run on meta tensors."""
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import fxgrow
from fxgrow.aten import TorchDispatchMode
from fxgrow.cli.main import main


class Calls(nn.Module):
    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def products(model, *inputs) -> tuple[int, int]:
    """Counts the products of a real forward and backward pass."""
    with FlopCounterMode(display=False) as forward:
        out = model(*inputs)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def body(*after: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), *after)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("after", [(), (nn.Tanh(),)], ids=["stops early", "whole"])
def test_what_checkpoints_repeat_is_what_a_real_step_repeats(reentrant, after):
    x = torch.randn(3, 6, requires_grad=True)
    plain = fxgrow.count_flops(body(*after), x)
    model = Calls(lambda s, x: checkpoint(s.body, x, use_reentrant=reentrant), body=body(*after))
    count = fxgrow.count_flops(model, x)
    assert (count.forward, count.backward) == (plain.forward, plain.backward) and plain.recomputed == 0
    assert count.backward + count.recomputed == products(model, x)[1]
    assert count.by_module()["body.0"].recomputed == count.by_module()["body.0"].forward
    assert count.activation_bytes < plain.activation_bytes


def test_no_checkpoint_repeats_what_needs_no_gradient():
    model = Calls(lambda s, x: checkpoint(s.body, x, use_reentrant=False), body=body().requires_grad_(False))
    assert fxgrow.count_flops(model, torch.randn(3, 6)).recomputed == 0


class Products(TorchDispatchMode):
    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.flops += 2 * args[-2].numel() * args[-1].shape[1]
        return func(*args, **(kwargs or {}))


def forces(s, x):
    x = x.detach().requires_grad_()
    energy = s.b(torch.tanh(s.a(x))).sum()
    return energy + torch.autograd.grad(energy, x, create_graph=True)[0]


@pytest.mark.parametrize("run", [forces, lambda s, x: forces(s, x) if x.sum() > -1e9 else x], ids=["meta", "own tensors"])
def test_gradients_in_a_forward_are_counted_as_they_run(run):
    model, x = Calls(run, a=nn.Linear(4, 8), b=nn.Linear(8, 1)), torch.randn(3, 4)
    count = fxgrow.count_flops(model, x)
    with Products() as forward:
        out = model(x)
    with Products() as backward:
        out.sum().backward()
    assert (count.forward, count.backward) == (forward.flops, backward.flops)


def test_gradients_of_convolutions_and_attention_in_a_forward():
    def run(s, x):
        x = x.detach().requires_grad_()
        y = s.conv(x).flatten(2).mT[:, None]
        return torch.autograd.grad(F.scaled_dot_product_attention(y, y, y).sum(), x)[0]

    count = fxgrow.count_flops(Calls(run, conv=nn.Conv2d(2, 4, 3, groups=2)), torch.randn(1, 2, 6, 6))
    conv, attention = 2 * 16 * 36, 2 * 16 * 16 * 8
    assert count.forward == 2 * conv + 3 * attention  # the weight's gradient is not asked for
    assert count.backward == 0 and not count.without_rule


def test_what_has_no_rule_is_said_above_the_table(tmp_path, monkeypatch, capsys):
    (tmp_path / "odd_net.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(4, 4)\n    def forward(self, x):\n        return torch.matrix_exp(self.layer(x))\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as done:
        main(["flops", "odd_net:Net", "--input", "4,4"])
    out = capsys.readouterr().out
    assert done.value.code == 0
    assert out.index("not counted linalg_matrix_exp 1x in the model itself") < out.index("FLOPs of matrix products")
    assert fxgrow.count_flops(nn.Sequential(nn.ReLU()), torch.randn(2)).without_rule == {}


def test_checkpoints_have_a_column():
    model = Calls(lambda s, x: checkpoint(s.body, x, use_reentrant=False), body=body())
    tables = [fxgrow.count_flops(m, torch.randn(3, 6)).table() for m in (model, body())]
    headings = [[column.header for column in table.columns] for table in tables]
    assert "again" in headings[0] and "again" not in headings[1]


def test_lazy_layers_are_counted_and_stay_lazy():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    state = random.getstate()
    count = fxgrow.count_flops(model, torch.randn(2, 3, 6, 6))
    assert count.macs == 2 * (16 * 4 * 27 + 64 * 5) and isinstance(model[3], nn.LazyLinear) and random.getstate() == state
    with pytest.raises(fxgrow.CaptureError, match=r"unused.weight has no size before the model has run"):
        fxgrow.count_flops(Calls(lambda s, x: x, unused=nn.LazyLinear(2)), torch.randn(2))


def test_what_runs_nowhere_is_refused_with_both_reasons():
    with pytest.raises(fxgrow.CaptureError, match="nor does it run as it is: RuntimeError: mat1 and mat2"):
        fxgrow.count_flops(nn.Sequential(nn.Linear(4, 5)), torch.randn(2, 3))


def test_scripted_parts_count_where_they_are_called():
    model = Calls(lambda s, x: s.head(s.part(x)), part=torch.jit.script(nn.Sequential(nn.Linear(6, 8), nn.ReLU())),
                  head=nn.Linear(8, 4))
    count = fxgrow.count_flops(model, torch.randn(3, 6))
    assert [count.by_module()[name].forward for name in ("part", "head")] == [288, 192] and count.backward == 672


def test_counting_leaves_torch_as_it_was():
    hook, enter = torch.utils.checkpoint._checkpoint_hook, torch.utils.checkpoint._checkpoint_hook.__enter__
    before = torch.cond, torch.autograd.graph.disable_saved_tensors_hooks, torch.utils.checkpoint.CheckpointFunction.forward
    fxgrow.count_flops(body(), torch.randn(3, 6))
    assert hook.__enter__ is enter and "__enter__" not in vars(hook)
    assert before == (torch.cond, torch.autograd.graph.disable_saved_tensors_hooks,
                      torch.utils.checkpoint.CheckpointFunction.forward)
    assert not nn.modules.module._global_forward_pre_hooks and not nn.modules.module._global_forward_hooks


def test_a_choice_whose_ways_cost_the_same_needs_no_data():
    model = Calls(lambda s, x, m: s.layer(x) if m.all() else s.layer(x) * m[:, None], layer=nn.Linear(6, 4))
    count = fxgrow.count_flops(model, (torch.randn(3, 6), torch.ones(3, dtype=torch.bool)))
    assert count.macs == 3 * 24 and not count.eager and "assumed" not in " ".join(count.uncounted)
    chosen = Calls(lambda s, x, m: s.layer(x[m]), layer=nn.Linear(6, 4))
    count = fxgrow.count_flops(chosen, (torch.randn(3, 6), torch.tensor([True, False, False])))
    assert count.macs == 24 and count.eager
