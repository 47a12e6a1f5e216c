"""Every model of torchvision: convolutional ones with an eighth of their channels, transformers by small configurations."""
import functools
from unittest import mock

import torch
from measuring import Network, image
from thin import thin
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

SAID = ("*cls_logits", "*bbox_pred", "*bbox_reg", "*bbox_ctrness", "*cls_score", "*mask_fcn_logits", "*kps_score_lowres",
        "head.*.module_list.?", "head.*.module_list.?.1")  # the last layers of detectors
CLASSES, DEPTHS = 7, {"tiny": [2, 2, 3, 2], "small": [2, 2, 4, 2], "base": [2, 2, 5, 2], "large": [2, 2, 6, 2]}


def named(name: str, **options):
    """Return what builds a model of that name without any weights."""
    if name in models.list_models(module=models.segmentation) + models.list_models(module=models.detection):
        options |= {"weights_backbone": None}
    return functools.partial(models.get_model, name, weights=None, **options)


def convnext(name: str):
    widths = [12, 24, 36, 48, None]
    blocks = [CNBlockConfig(a, b, n) for a, b, n in zip(widths, widths[1:], DEPTHS[name.partition("_")[2]])]
    return models.ConvNeXt(blocks, num_classes=CLASSES)


def swin(name: str):
    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if "_v2_" in name else {}
    depths = {"t": [2, 2], "s": [2, 4], "b": [2, 6]}[name[-1]]
    return models.SwinTransformer([4, 4], 24, depths, [2, 4], [4, 4], num_classes=CLASSES, **second)


def vit(name: str):
    layers = {"b": 2, "l": 3, "h": 4}[name[4]]
    return models.VisionTransformer(32, 8, layers, 4, 32, 64, num_classes=CLASSES)


def mvit(name: str):
    config = models.video.mvit.MSBlockConfig
    blocks = [config(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
              config(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
              config(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1])]
    second = name == "mvit_v2_s"
    return models.video.MViT((32, 32), 8, blocks, residual_pool=second, residual_with_cls_embed=not second,
                             rel_pos_embed=second, proj_after_attn=second, num_classes=CLASSES)


def regnet(name: str):
    """Return a RegNet whose groups have an eighth of their width, or less, and two blocks a stage."""
    with mock.patch.object(models.regnet, "_regnet", lambda params, *args, **options: params):
        wide = models.get_model(name, weights=None)
    by = 32 if max(wide.widths) > 4000 else 8
    groups = [max(g // by, 2) for g in wide.group_widths]
    widths = [w // g * small for w, g, small in zip(wide.widths, wide.group_widths, groups)]
    blocks = models.regnet.BlockParams([min(d, 2) for d in wide.depths], widths, groups, wide.bottleneck_multipliers,
                                       wide.strides, wide.se_ratio)
    return models.RegNet(blocks, num_classes=CLASSES)


def swin3d(name: str):
    depths = {"t": [2, 2], "s": [2, 4], "b": [2, 6]}[name[-1]]
    return models.video.SwinTransformer3d([2, 4, 4], 24, depths, [2, 4], [2, 4, 4], num_classes=CLASSES)


def maxvit(name: str):
    return models.MaxVit((64, 64), stem_channels=8, partition_size=2, block_channels=[8, 16], block_layers=[1, 2],
                         head_dim=4,
                         stochastic_depth_prob=0.0, num_classes=CLASSES)


def pictures(side: int):
    """Return inputs of a detector: a list of pictures."""
    def inputs(batch: int, longer: int) -> tuple:
        return [torch.rand(3, side, side + 32 * (i + longer)) for i in range(batch)],
    return inputs


def flow(batch: int, longer: int) -> tuple:
    return tuple(torch.rand(batch, 3, 128 + 64 * longer, 128 + 8 * longer) for _ in range(2))


def network(name: str) -> Network:
    for family, make in (("convnext", convnext), ("swin3d", swin3d), ("swin", swin), ("vit", vit), ("mvit", mvit),
                         ("maxvit", maxvit), ("regnet", regnet)):
        if name.startswith(family):
            axes = 3 if family in ("swin3d", "mvit") else 2
            side = {"maxvit": 64, "regnet": 64}.get(family, 32)
            inputs = image(side, axes=axes) if axes == 2 else video(8, side)
            return Network(functools.partial(make, name), inputs)
    if name in models.list_models(module=models.detection):
        return Network(functools.partial(detector, name), pictures(96))
    if name in models.list_models(module=models.video):
        return Network(functools.partial(thin, named(name, num_classes=CLASSES), 16 if name == "s3d" else 8),
                       video(16 if name == "s3d" else 8, 224 if name == "s3d" else 48))
    if name.startswith("raft"):
        return Network(raft if name == "raft_large" else named(name), flow)
    if name in models.list_models(module=models.segmentation):
        return Network(functools.partial(thin, named(name, num_classes=CLASSES), 8), image(64))
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    by = 16 if name == "efficientnet_b7" else 1 if name.startswith(("squeezenet", "shufflenet", "mnasnet0",
                               "mobilenet_v3_small")) else 8 if name.startswith(("alexnet", "vgg")) else 4
    side = {"inception_v3": 128, "alexnet": 64, "googlenet": 64}.get(name, 64)
    make = named(name, num_classes=CLASSES, **options)
    return Network(functools.partial(thin, make, by) if by > 1 else make, image(side))


def video(frames: int, side: int):
    def inputs(batch: int, longer: int) -> tuple:
        return torch.randn(batch, 3, frames * (1 + longer), side, side + 16 * longer),
    return inputs


def detector(name: str):
    """Return a detector of an eighth of its channels, or a quarter; what it says of each anchor and box keeps its size."""
    sizes = {} if name.startswith("ssd") else {"min_size": 96, "max_size": 160}
    wide = named(name, num_classes=CLASSES, **sizes)()  # with numbers: some run in their constructor
    model = thin(lambda: wide, 4 if name.startswith("ssdlite") else 8, SAID)
    if name == "ssd300_vgg16":
        model.backbone.scale_weight = torch.nn.Parameter(torch.ones(512 // 8) * 20)
    return model


def raft():
    """Return a large RAFT of a quarter of its channels."""
    raft, layers = models.optical_flow.raft, (16, 16, 24, 32, 64)
    return raft._raft(
        weights=None, progress=False, feature_encoder_layers=layers, feature_encoder_block=raft.ResidualBlock,
        feature_encoder_norm_layer=torch.nn.InstanceNorm2d, context_encoder_layers=layers,
        context_encoder_block=raft.ResidualBlock, context_encoder_norm_layer=torch.nn.BatchNorm2d, corr_block_num_levels=4,
        corr_block_radius=4, motion_encoder_corr_layers=(64, 48), motion_encoder_flow_layers=(32, 16),
        motion_encoder_out_channels=32, recurrent_block_hidden_state_size=32,
        recurrent_block_kernel_size=((1, 5), (5, 1)), recurrent_block_padding=((0, 2), (2, 0)), flow_head_hidden_size=64,
        use_mask_predictor=True)


ALL = [name for module in (models, models.segmentation, models.detection, models.video, models.optical_flow)
       for name in models.list_models(module=module)]
NETWORKS = {name: network(name) for name in ALL}
