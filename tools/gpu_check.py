"""Check on one GPU what trains and grows, in at most eight minutes, and write what was found as one JSON file.

    python tools/gpu_check.py [--out gpu_check.json] [--minutes 8] [--images FILE.npz]
    python tools/gpu_check.py --quick --device cpu            a minute on a CPU: that the script itself works

Needs torch, torchvision, transformers, scikit-learn, and fxgrow, by its wheel or `pip install -e .`. In this order:
growth in float32, bfloat16 and float16 against the network before it; optimizers, archives and checkpoints on the
device; the throughput of the trainer against a bare loop, and of batches; and, with the time that is left, whether
growing pays on text, and on images (CIFAR-10, say: `images`, `labels`, `test_images`, `test_labels`).

What fails is told with its error and does not stop what is behind it; the exit code is 1 then. The file is written behind
each check, and when time is up.
"""
import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.experiments.data import Arrays, as_data, load_data, loader
from fxgrow.experiments.data.arrays import padded_crop
from fxgrow.experiments.train import TrainConfig, Trainer, fit_stacked
from fxgrow.passes import Deepen, Widen
from fxgrow.zoo import create_model, options_for

NO_TIME = "no time was left"
# relative errors that rounding explains, of outputs behind a few dozen layers
ALLOWED = {torch.float32: 2e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


@dataclass
class Setting:
    """Where and how thoroughly: the device, whether quickly, and the time of the clock by which all must be done."""
    device: torch.device
    quick: bool
    until: float
    images: str = ""
    failed: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def tried(self, found: dict[str, Any], name: str, part: Callable[[], Any], seconds: float = 0) -> None:
        """Put into `found` what a part finds, or its error; it does not begin with less than so many seconds left."""
        if self.left < (0 if self.quick else seconds):
            found[name] = NO_TIME
            return
        try:
            found[name] = part()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            self.failed.append(name)


Check = Callable[[Setting], dict[str, Any]]


def networks(quick: bool) -> dict[str, tuple[nn.Module, Tensor]]:
    """Return models and inputs: convolutions, a transformer of torchvision's, two language models."""
    import torchvision
    from transformers import GPT2Config, GPT2Model
    torch.manual_seed(0)
    side, image = (32, torch.randn(4, 3, 32, 32)) if quick else (224, torch.randn(4, 3, 224, 224))
    gpt2 = GPT2Model(GPT2Config(bos_token_id=0, eos_token_id=0, n_embd=32 if quick else 256, n_layer=2, n_head=4,
                                vocab_size=100, use_cache=False, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    tokens = torch.arange(32).view(2, 16) % 100
    found = {"torchvision resnet18": (torchvision.models.resnet18(num_classes=10), image),
             "torchvision vit": (torchvision.models.VisionTransformer(side, 16, 2, 4, 64, 128, num_classes=10), image),
             "transformers gpt2": (gpt2, tokens), "zoo:gpt": (create_model("gpt", width=64, depth=2), tokens)}
    with torch.no_grad():
        for model, _ in found.values():
            for p in model.parameters():  # heads that start at zero would hide what is wrong in front of them
                p += 0.02 * torch.randn(p.shape)
    return found


def growth(setting: Setting) -> dict[str, Any]:
    """Widen and deepen each network in each type of numbers, and compare with the network before."""
    found: dict[str, Any] = {}
    types = [torch.float32, torch.bfloat16] + ([torch.float16] if setting.device.type == "cuda" else [])
    for name, (model, x) in networks(setting.quick).items():
        for dtype in types[:1] if setting.quick and "gpt" not in name else types:
            setting.tried(found, f"{name}, {dtype}", partial(_grown, setting, model, x, dtype))
    return found


def _grown(setting: Setting, model: nn.Module, x: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    net, inputs = model.to(setting.device, dtype).eval(), x.to(setting.device)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    began = time.perf_counter()
    grown = fxgrow.transform(net, inputs, [Widen(factor=2, seed=0), Deepen(method="netmorph", seed=1)])
    setting.wait()
    seconds = time.perf_counter() - began
    error = _error(net, grown.model.eval(), inputs)
    assert error <= ALLOWED[dtype], f"relative error {error:.2g}"
    return {"relative_error": error, "seconds": seconds, "parameters": [
        sum(p.numel() for p in m.parameters()) for m in (net, grown.model)]}


@torch.no_grad()
def _error(before: nn.Module, after: nn.Module, x: Tensor) -> float:
    a, b = (_tensor(m(x)).float() for m in (before, after))
    return float((a - b).norm() / a.norm())


def _tensor(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]


def steps(setting: Setting) -> dict[str, Any]:
    """Migrate a fused AdamW through a growth, take steps, save and load, on the device."""
    x, y = torch.randn(16, 3, 32, 32, device=setting.device), torch.arange(16, device=setting.device) % 10
    gm = fxgrow.capture(create_model("cifar_resnet10", r=2 ** -3).to(setting.device), x)
    optimizer = torch.optim.AdamW(gm.parameters(), 1e-3, fused=True)
    losses = [_step(gm, optimizer, x, y) for _ in range(3)]
    grown = fxgrow.transform(gm, x, Widen(factor=2, seed=0))
    moved = grown.record.migrate_optimizer(optimizer, grown.model, gm)
    same = _error(gm.eval(), grown.model.eval(), x)
    losses += [_step(grown.model.train(), moved, x, y) for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        fxgrow.save(grown, f"{folder}/m.pt")
        again = fxgrow.load(f"{folder}/m.pt").to(setting.device)
    back = _error(grown.model.eval(), again.eval(), x)
    assert same < 2e-3 and back == 0 and all(loss == loss for loss in losses), (same, back, losses)
    return {"losses": losses, "relative_error_of_growth": same}


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def training(setting: Setting) -> dict[str, Any]:
    """Train and grow by the trainer in each precision, and go on from a checkpoint to the same numbers."""
    data = load_data("digits", limit=300)
    found: dict[str, Any] = {}
    ways: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"precision": "bf16"}, "channels_last": {"channels_last": True}}
    if setting.device.type == "cuda":
        ways |= {"fp16": {"precision": "fp16"}, "fused": {"fused": True}, "CUDA graphs": {"compile": "reduce-overhead"},
                 "fp16, inductor": {"precision": "fp16", "compile": "inductor"}}
    for name, settings in ways.items():
        setting.tried(found, name, partial(_trained, setting, data, settings))
    return found


def _trained(setting: Setting, data: Any, settings: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    model = create_model("cifar_resnet10", **options_for("cifar_resnet10", (1, 8, 8), 10), r=2 ** -3)
    config = TrainConfig(epochs=4, lr=0.1, device=setting.device.type, grow=["epoch=2: widen factor=2"], **settings)
    with tempfile.TemporaryDirectory() as folder:
        rows = Trainer(model, data, config, f"{folder}/run").fit().rows
        again = Trainer.resume(f"{folder}/run", data)
        assert again.step == again.total
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    return {"accuracy": rows[-1]["val_accuracy"], "seconds": rows[-1]["seconds"]}


def throughput(setting: Setting) -> dict[str, Any]:
    """Time a step of the trainer against a bare loop's, and batches with crop and flip, by the clock on the wall."""
    count = 10 if setting.quick else 200
    found: dict[str, Any] = {}
    x = torch.randint(0, 256, (640 if setting.quick else 50_000, 3, 32, 32), dtype=torch.uint8)
    y = torch.arange(len(x)) % 10
    names = tuple("0123456789")
    source = Arrays(x, y, names, (x[:10], y[:10]), padded_crop((3, 32, 32), flip=True))
    train = as_data(source, validation=0).train
    for attempt in ("first, with the copy to the device", "again"):
        setting.tried(found, f"{len(x):,} images with crop and flip, {attempt}", partial(_batches, setting, train))
    for r, batch in ((2 ** -3, 64), (1.0, 256)) if not setting.quick else ((2 ** -3, 64),):
        def both(r: float = r, batch: int = batch) -> dict[str, float]:
            ours, bare = _ours(setting, source, r, batch, count), _bare(setting, x, y, r, batch, count)
            return {"trainer": ours, "bare": bare, "ratio": ours / bare}

        setting.tried(found, f"cifar_resnet10, r = {r:g}, batch {batch}", both)
    for seeds in (2,) if setting.quick else (8, 32):
        setting.tried(found, f"cifar_resnet10, r = 0.125, batch 64, {seeds} seeds stacked",
                      partial(_stacked, setting, source, 2 ** -3, 64, count, seeds))
    return found


def _batches(setting: Setting, train: Any) -> float:
    setting.wait()
    began = time.perf_counter()
    for _ in loader(train, 64, shuffle=True, device=setting.device):
        pass
    setting.wait()
    return time.perf_counter() - began


def _ours(setting: Setting, source: Arrays, r: float, batch: int, count: int) -> float:
    data = as_data(source, validation=0, augment=False)
    warm = TrainConfig(steps=5, batch_size=batch, eval_every=10 ** 9, device=setting.device.type)
    Trainer(create_model("cifar_resnet10", r=r), data, warm).fit()
    trainer = Trainer(create_model("cifar_resnet10", r=r), data, TrainConfig.of({**warm.to_json(), "steps": count}))
    setting.wait()
    began = time.perf_counter()
    trainer.fit()
    setting.wait()
    return (time.perf_counter() - began) / count


def _stacked(setting: Setting, source: Arrays, r: float, batch: int, count: int, seeds: int) -> dict[str, float]:
    data = as_data(source, validation=0, augment=False)

    def runs(steps: int) -> list[Trainer]:
        config = TrainConfig(steps=steps, batch_size=batch, eval_every=10 ** 9, device=setting.device.type)
        return [Trainer(create_model("cifar_resnet10", r=r), data, TrainConfig.of({**config.to_json(), "seed": seed}))
                for seed in range(seeds)]

    fit_stacked(runs(5))
    made = runs(count)
    setting.wait()
    began = time.perf_counter()
    assert fit_stacked(made) == [None] * seeds
    setting.wait()
    return {"each": (time.perf_counter() - began) / count / seeds}


def _bare(setting: Setting, x: Tensor, y: Tensor, r: float, batch: int, count: int) -> float:
    x, y = ((x.float() - 127) / 74).to(setting.device), y.to(setting.device)
    model = create_model("cifar_resnet10", r=r).to(setting.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    order, began = torch.randint(len(x), ((count + 5) * batch,), device=setting.device), 0.0
    for i in range(count + 5):
        if i == 5:
            setting.wait()
            began = time.perf_counter()
        at = order[i * batch:(i + 1) * batch]
        optimizer.zero_grad()
        F.cross_entropy(model(x[at]), y[at]).backward()
        optimizer.step()
    setting.wait()
    return (time.perf_counter() - began) / count


def pays(setting: Setting) -> dict[str, Any]:
    """Train a small GPT, a large one, and the small one that becomes the large one, on `stdlib`, as far as time allows.

    Bits per byte on the validation part against FLOPs, one seed; as many steps as fit, each network by the same number.
    """
    data = load_data("stdlib", limit=30 if setting.quick else 20_000)
    width, deep = (16, (1, 2)) if setting.quick else (256, (4, 8))
    count = 6 if setting.quick else 400
    found: dict[str, Any] = {"steps": count}
    for name, depth, grow in (("small", deep[0], []), ("large", deep[1], []),
                              ("grown", deep[0], ["fraction=0.5: deepen where=blocks.* method=r2r"])):
        def arm(depth: int = depth, grow: list[str] = grow) -> dict[str, Any]:
            torch.manual_seed(0)
            model = create_model("gpt", width=width, depth=depth)
            config = TrainConfig(steps=count, batch_size=8 if setting.quick else 64, optimizer="adamw", lr=1e-3,
                                 schedule="wsd", warmup=0.02, clip=1.0, eval_every=max(1, count // 4),
                                 device=setting.device.type, precision="bf16", grow=grow)
            return _told(Trainer(model, data, config).fit().rows, "step", "flops", "val_bits_per_byte")

        setting.tried(found, name, arm, seconds=30)
    return found


def _told(rows: list[dict[str, Any]], *columns: str) -> dict[str, Any]:
    return {"parameters": rows[-1]["parameters"], "seconds": rows[-1]["seconds"],
            "rows": [{name: row[name] for name in columns} for row in rows]}


def images(setting: Setting) -> dict[str, Any]:
    """Train a narrow residual network, a wide one, and narrow ones that become wide, on images of a file; one seed.

    Accuracy on the validation part against FLOPs, eight epochs each, as far as time allows.
    """
    if not setting.images and not setting.quick:
        return {"left out": "no --images FILE.npz"}
    data = load_data("digits", limit=200) if setting.quick else load_data(f"npz:{setting.images}", augment=True)
    name, narrow = ("cifar_resnet10", 2 ** -4) if setting.quick else ("cifar_resnet18", 0.25)
    arms = {"narrow": (narrow, []), "wide": (2 * narrow, []), "auto": (narrow, ["auto max_size=4: widen factor=2"]),
            "at half": (narrow, ["fraction=0.5: widen factor=2"])}
    found: dict[str, Any] = {}
    for arm, (r, grow) in arms.items():
        def trained(r: float = r, grow: list[str] = grow) -> dict[str, Any]:
            torch.manual_seed(0)
            model = create_model(name, **{**options_for(name, data.input_shape, data.classes), "r": r, "stem": 3})
            ways = {"batch_size": 32} if setting.quick else {"batch_size": 128, "precision": "bf16", "channels_last": True}
            config = TrainConfig(epochs=2 if setting.quick else 8, lr=0.1, weight_decay=5e-4, schedule="wsd", warmup=0.05,
                                 norm_statistics="always", device=setting.device.type, grow=grow, **ways)
            return _told(Trainer(model, data, config).fit().rows, "step", "flops", "val_accuracy", "event")

        setting.tried(found, arm, trained, seconds=60)
    return found


CHECKS: dict[str, Check] = {"growth": growth, "steps": steps, "training": training, "throughput": throughput, "pays": pays,
                            "images": images}


def about(device: torch.device) -> dict[str, Any]:
    """Return the machine's and the packages' names."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "card": card, "torch": torch.__version__, "cuda": torch.version.cuda,
            "python": platform.python_version()}


def run(setting: Setting, out: Path | None = None) -> dict[str, Any]:
    """Run all checks that time allows, and return what was found; what there is so far is written behind each.

    With `out`, time is up when it is up, whatever hangs: the process ends, and the report tells in which check.
    """
    report: dict[str, Any] = {"about": about(setting.device), "quick": setting.quick, "failed": setting.failed}

    def stop() -> None:
        report["failed"] = [*setting.failed, "time was up before all was done"]
        write(report, out)
        os._exit(1)

    clock = threading.Timer(max(setting.left, 0), stop)
    clock.daemon = True
    if out is not None:
        clock.start()
    for name, check in CHECKS.items():
        if setting.left <= 0:
            report[name] = NO_TIME
            continue
        began, failed = time.monotonic(), len(setting.failed)
        tried: dict[str, Any] = {}
        report[name] = "not done when time was up"
        setting.tried(tried, name, partial(check, setting))
        report[name] = {**tried[name], "took": round(time.monotonic() - began, 2)}
        print(f"{name:12} {'FAILED' if len(setting.failed) > failed else 'ok'} {report[name]['took']:.1f} s", flush=True)
        write(report, out)
    clock.cancel()
    return report


def write(report: dict[str, Any], out: Path | None) -> None:
    """Write the report, where there is a place for it."""
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Run the checks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu_check.json", metavar="FILE", help="where the report goes")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="small networks and a few steps")
    parser.add_argument("--minutes", type=float, default=8.0, help="then it ends, whatever hangs")
    parser.add_argument("--images", default="", metavar="FILE", help="an .npz archive, for whether growing pays on it")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: --device cpu --quick tries the script itself")
    setting = Setting(torch.device(args.device), args.quick, time.monotonic() + 60 * args.minutes, args.images)
    report = run(setting, Path(args.out))
    write(report, Path(args.out))
    print(f"written to {args.out}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
