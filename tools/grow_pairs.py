"""Grows small stock models into bigger ones and tells how exact it is: the table of docs/grow-into.md.

    python tools/grow_pairs.py                    all pairs; float64, randomised statistics, eval mode
    python tools/grow_pairs.py resnet18 vit       those whose names hold one of these words
    python tools/grow_pairs.py --float32 resnet18
"""
import argparse
import sys
import time
from collections import Counter

import torch
import torchvision
from torch import nn

from fxgrow.errors import GrowthError
from fxgrow.passes.into import grow_into

# (small, big, input size); a name after `timm:` is timm's, all others are torchvision's.
PAIRS = [(f"torchvision:{a}", f"torchvision:{b}", n) for a, b, n in [
    ("resnet18", "resnet34", 64), ("resnet50", "resnet101", 64), ("resnet50", "resnet152", 64),
    ("resnet50", "wide_resnet50_2", 64), ("resnet50", "wide_resnet101_2", 64), ("resnext50_32x4d", "resnext101_32x8d", 64),
    ("vgg11", "vgg13", 64), ("vgg11", "vgg16", 64), ("vgg11", "vgg19", 64), ("vgg11_bn", "vgg13_bn", 64),
    ("vgg11_bn", "vgg16_bn", 64), ("vgg11_bn", "vgg19_bn", 64), ("densenet121", "densenet169", 64),
    ("densenet121", "densenet201", 64), ("mobilenet_v2:width_mult=0.5", "mobilenet_v2", 64),
    ("mobilenet_v2", "mobilenet_v2:width_mult=1.4", 64), ("efficientnet_b0", "efficientnet_b1", 64),
    ("efficientnet_b0", "efficientnet_b2", 64), ("efficientnet_b0", "efficientnet_b3", 64),
    ("efficientnet_b0", "efficientnet_b4", 64), ("regnet_y_400mf", "regnet_y_800mf", 64),
    ("regnet_x_400mf", "regnet_x_800mf", 64), ("convnext_tiny", "convnext_small", 64),
    ("convnext_small", "convnext_base", 64), ("convnext_small", "convnext_large", 64),
    ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", 64), ("mnasnet0_5", "mnasnet1_0", 64),
    ("vit_b_16", "vit_l_16", 224), ("swin_t", "swin_s", 64), ("swin_t", "swin_b", 64), ("swin_v2_t", "swin_v2_s", 64)]]
PAIRS += [(f"timm:{a}", f"timm:{b}", n) for a, b, n in [
    ("deit_tiny_patch16_224", "deit_small_patch16_224", 224), ("deit_small_patch16_224", "deit_base_patch16_224", 224),
    ("mobilenetv3_large_075", "mobilenetv3_large_100", 64), ("mobilenetv3_small_050", "mobilenetv3_small_100", 64),
    ("resnet26", "resnet50", 64), ("efficientnet_lite0", "efficientnet_lite1", 64), ("mixer_s16_224", "mixer_b16_224", 224),
    ("regnety_002", "regnety_004", 64), ("convnext_atto", "convnext_femto", 64), ("poolformer_s12", "poolformer_s24", 64),
    ("repvgg_a0", "repvgg_b0", 64), ("ghostnet_050", "ghostnet_100", 64), ("res2net50_26w_4s", "res2net101_26w_4s", 64),
    ("seresnet18", "seresnet34", 64), ("mixnet_s", "mixnet_m", 64), ("dla34", "dla60", 64), ("vgg11", "vgg13", 64),
    ("gmixer_12_224", "gmixer_24_224", 224), ("resmlp_12_224", "resmlp_24_224", 224),
    ("cait_xxs24_224", "cait_xxs36_224", 224)]]


def build(name: str) -> nn.Module:
    library, word, *options = name.split(":")
    if library == "timm":
        import timm
        return timm.create_model(word)
    return torchvision.models.get_model(word, **{k: float(v) for k, v in (option.split("=") for option in options)})


def randomise(model: nn.Module) -> nn.Module:
    """Draw statistics, norms, biases and layer scales as no fresh model has them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, t in [*model.named_parameters(), *model.named_buffers()]:
            if t.is_floating_point() and (t.ndim <= 1 or not t.std() > 0):
                low = 0.5 if name.endswith("var") or (t.numel() and float(t.mean()) > 0) else -0.3
                t.copy_(low + torch.rand(t.shape, generator=generator, dtype=torch.float64) * (1.0 if low > 0 else 0.6))
    return model


def compare(small: str, big: str, size: int, dtype: torch.dtype = torch.float64) -> tuple[float, dict[str, int]]:
    """Return the relative error of the stock class with the grown numbers, and how many steps of each kind it took."""
    torch.manual_seed(0)
    one, two = randomise(build(small)).to(dtype).eval(), build(big).to(dtype).eval()
    x = torch.randn(1, 3, size, size, dtype=dtype)
    grown = grow_into(one, two, x, seed=0, check=False)
    two.load_state_dict(grown, strict=True)
    with torch.no_grad():
        a, b = one(x), two(x)
    return float((a - b).abs().max() / a.abs().max()), Counter(step.kind for step in grown.plan.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--float32", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| small | big | relative error, or why not | steps | seconds |\n|---|---|---|---|---|")
    exact = 0
    for small, big, size in PAIRS:
        if given.words and not any(w in f"{small} {big}" for w in given.words):
            continue
        began = time.perf_counter()
        try:
            error, steps = compare(small, big, size, torch.float32 if given.float32 else torch.float64)
            exact += error <= (1e-4 if given.float32 else 1e-9)
            result, made = f"{error:.1e}", ", ".join(f"{n} {k}" for k, n in steps.items())
        except GrowthError as why:
            result, made = str(why), "refused"
        names = " | ".join(n.removeprefix("torchvision:") for n in (small, big))
        print(f"| {names} | {result} | {made} | {time.perf_counter() - began:.1f} |", flush=True)
    print(f"\n{exact} exact", file=sys.stderr)


if __name__ == "__main__":
    main()
