"""Every decoder of segmentation-models-pytorch on a small encoder, and some encoders below its U-Net."""
import functools

import segmentation_models_pytorch as smp
from measuring import Network, image

SMALL = "tu-test_resnet"
DECODERS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
            "Segformer")
ENCODERS = ("mobilenet_v2", "timm-efficientnet-b0", "mit_b0", "tu-test_convnext", "resnet18", "mobileone_s0", "densenet121",
            "tu-test_efficientnet", "efficientnet-b0", "vgg11_bn", "timm-regnety_002", "timm-skresnet18", "timm-gernet_s",
            "timm-resnest14d", "mobileone_s1")


def make(decoder: str, encoder: str):
    more = {"decoder_channels": (32, 24, 16, 12, 8)} if decoder in ("Unet", "UnetPlusPlus", "MAnet") else {}
    return getattr(smp, decoder)(encoder, encoder_weights=None, classes=3, **more)


def dpt():
    return smp.DPT("tu-vit_tiny_patch16_224.augreg_in21k", encoder_weights=None, classes=3, encoder_depth=4,
                   decoder_intermediate_channels=(8, 16, 16, 16), decoder_fusion_channels=16)


NETWORKS = {f"{name}, {SMALL}": Network(functools.partial(make, name, SMALL),
                                        image(128 if name == "PAN" else 64, step=64)) for name in DECODERS}
NETWORKS |= {f"Unet, {name}": Network(functools.partial(make, "Unet", name), image(64)) for name in ENCODERS}
NETWORKS |= {"DPT": Network(dpt, image(224))}
