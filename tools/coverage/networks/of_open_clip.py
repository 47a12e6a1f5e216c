"""Towers and pairs of towers of open_clip."""
import functools

import torch
from measuring import Network, image
from open_clip import model as clip
from open_clip.coca_model import CoCa
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import TextTransformer, VisionTransformer

SEEN = dict(image_size=32, patch_size=8, width=32, layers=2, head_width=8, mlp_ratio=2.0)
READ = dict(context_length=8, vocab_size=64, width=32, heads=4, layers=2)
VIT = dict(image_size=32, patch_size=8, width=32, layers=2, heads=4, mlp_ratio=2.0, output_dim=16)


def pair(batch: int, longer: int) -> tuple:
    return torch.randn(batch, 3, 32, 32), torch.randint(1, 63, (batch, 8))


def text(batch: int, longer: int) -> tuple:
    return torch.randint(1, 63, (batch, 8)),


NETWORKS = {
    "VisionTransformer": Network(functools.partial(VisionTransformer, **VIT), image()),
    "VisionTransformer, pooled by attention": Network(functools.partial(VisionTransformer, **VIT, attentional_pool=True),
                                                      image()),
    "VisionTransformer, layer scale": Network(functools.partial(VisionTransformer, **VIT, ls_init_value=0.1), image()),
    "TextTransformer": Network(functools.partial(TextTransformer, **READ, output_dim=16), text),
    "ModifiedResNet": Network(functools.partial(ModifiedResNet, [1, 1, 1, 1], 16, 4, 64, 8), image(64)),
    "CLIP": Network(functools.partial(clip.CLIP, 16, SEEN, READ), pair),
    "CustomTextCLIP": Network(functools.partial(clip.CustomTextCLIP, 16, SEEN, READ), pair),
    "CLIP, ResNet": Network(functools.partial(clip.CLIP, 16, dict(SEEN, layers=[1, 1, 1, 1], width=8), READ), pair),
    "CoCa": Network(functools.partial(CoCa, 32, clip.MultimodalCfg(**READ) if hasattr(clip, "MultimodalCfg") else dict(READ),
                                      dict(READ, embed_cls=True, output_tokens=True),
                                      dict(SEEN, attentional_pool=True, output_tokens=True)), pair),
}
