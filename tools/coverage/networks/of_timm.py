"""One network of each family (module) of timm, its smallest or a configuration of few channels."""
import functools

import timm
from measuring import Network, image
from thin import thin as thinned

# name: how it is made smaller, and the side of its pictures. "size": made for pictures of that side.
SMALL = {
    "test_vit": {}, "test_vit4": {}, "test_byobnet": {}, "beit_base_patch16_224": dict(size=64, embed_dim=48, depth=2,
                                                                                       num_heads=4),
    "beitv2_base_patch16_224": dict(size=64, embed_dim=48, depth=2, num_heads=4),
    "halonet_h1": dict(side=256), "lambda_resnet26rpt_256": dict(side=256),
    "poolformer_s12": dict(side=64),
    "caformer_s18": dict(side=64),
    "cait_xxs24_224": dict(size=64, embed_dim=48, depth=2), "coat_lite_tiny": dict(size=64), "test_coatnet": {},
    "test_maxvit": {},
    "convit_tiny": dict(size=64), "convmixer_768_32": dict(side=64), "test_convnext": {}, "test_convnext2": {},
    "cpubone_nano": dict(side=96), "crossvit_9_240": dict(depth=[[1, 2, 0]]), "cs3darknet_focus_s": dict(side=96),
    "csatv2": dict(side=256),
    "cspnext_tiny": dict(side=96), "davit_tiny": dict(embed_dims=(16, 32, 48, 64), num_heads=(2, 2, 4, 4),
                                                      depths=(1, 1, 2, 1)),
    "deepseek_vit_412m": dict(embed_dim=48, depth=2, num_heads=4, side=126),
    "deit_tiny_distilled_patch16_224": dict(size=64, depth=2), "deit3_small_patch16_224": dict(size=64, embed_dim=48,
                                                                                               depth=2, num_heads=4),
    "densenet121": dict(growth_rate=8, block_config=(2, 2, 3, 2), side=96), "dla46_c": dict(side=96), "test_nfnet": {},
    "nf_regnet_b0": dict(side=96), "nf_resnet26": dict(side=64), "dpn48b": dict(side=96),
    "ese_vovnet19b_slim_dw": dict(side=96),
    "test_resnet": {}, "resnet10t": dict(side=96), "seresnet18": dict(side=64), "ecaresnet26t": dict(side=64),
    "eca_resnext26ts": dict(thin=8, side=64),
    "edgenext_xx_small": dict(side=96),
    "efficientformer_l1": dict(), "efficientformerv2_s0": dict(), "test_efficientnet": {}, "tf_mixnet_s": dict(side=96),
    "efficientvim_m1": dict(), "efficientvit_b0": dict(side=96), "efficientvit_m0": dict(),
    "eva02_tiny_patch14_224": dict(size=56, depth=2), "vit_tiny_patch16_dinov3_qkvb": dict(size=64, depth=2),
    "fasternet_t0": dict(side=96),
    "fastvit_t8": dict(side=96), "mobilenetv3_small_050": dict(side=96), "lcnet_035": dict(side=96),
    "focalnet_tiny_srf": dict(side=96), "gcvit_xxtiny": dict(),
    "gemma4_vit_167m": dict(embed_dim=48, depth=2, num_heads=4, side=96), "ghostnet_050": dict(side=96),
    "ghostnetv3_050": dict(side=96),
    "gmlp_ti16_224": dict(size=64), "gmixer_12_224": dict(size=64),
    "resmlp_12_224": dict(size=64), "mixer_s32_224": dict(size=64),
    "hardcorenas_a": dict(side=96), "hgnetv2_b0": dict(side=96), "hgnet_tiny": dict(side=64),
    "hiera_tiny_224": dict(embed_dim=24, num_heads=1, stages=(1, 1, 2, 1)),
    "sam2_hiera_tiny": dict(side=224),
    "hrnet_w18_small": dict(side=96), "iformer_t": dict(), "inception_next_atto": dict(side=96),
    "inception_resnet_v2": dict(side=128), "inception_v3": dict(side=128), "inception_v4": dict(side=128),
    "lcnetv2_small": dict(side=96),
    "legacy_seresnet18": dict(side=96), "legacy_xception": dict(side=96), "levit_128s": dict(size=64),
    "levit_conv_128s": dict(size=64),
    "lowformer_b0": dict(), "test_mambaout": {}, "mobilenetv5_base": dict(side=128, channel_multiplier=0.25),
    "mobilevit_xxs": dict(side=128),
    "mobilevitv2_050": dict(side=128), "mvitv2_tiny": dict(),
    "naflexvit_base_patch16_gap": dict(embed_dim=48, depth=2, num_heads=4, side=64),
    "nasnetalarge": dict(side=96, thin=6),
    "nest_tiny": dict(), "nextvit_small": dict(side=64),
    "pit_ti_224": dict(depth=[1, 2, 1]),
    "pnasnet5large": dict(side=96, thin=6), "pvt_v2_b0": dict(side=96),
    "qwen3_vit_88m": dict(embed_dim=48, depth=2, num_heads=4, side=96), "rdnet_tiny": dict(side=64),
    "regnetx_002": dict(side=96), "regnety_002": dict(side=96), "repghostnet_050": dict(side=96),
    "repvit_m0_9": dict(side=96),
    "res2next50": dict(side=64), "resnest14d": dict(side=64), "resnetv2_18": dict(side=64),
    "resnetv2_50x1_bit": dict(side=64), "rexnet_100": dict(side=96),
    "samvit_base_patch16_224": dict(embed_dim=48, depth=2, num_heads=4, global_attn_indexes=(1,)),
    "selecsls42": dict(side=64), "sequencer2d_s": dict(layers=(1, 1, 2, 1), embed_dims=(24, 48, 48, 48),
                                                       hidden_sizes=(12, 24, 24, 24)),
    "shvit_s1": dict(side=224), "skresnet18": dict(side=64), "starnet_s050": dict(side=96), "swiftformer_xs": dict(),
    "swin_tiny_patch4_window7_224": dict(embed_dim=24, depths=(1, 1, 2, 1)),
    "swinv2_tiny_window8_256": dict(embed_dim=24, depths=(1, 1, 2, 1)),
    "swinv2_cr_tiny_224": dict(embed_dim=24, depths=(1, 1, 2, 1)), "test_vit_relpos": {}, "tiny_vit_5m_224": dict(),
    "tnt_s_patch16_224": dict(size=64, embed_dim=48, depth=2, num_heads_outer=4), "tresnet_m": dict(side=64),
    "twins_svt_small": dict(embed_dims=(16, 32, 64, 64), depths=(1, 1, 2, 1)),
    "twins_pcpvt_small": dict(embed_dims=(16, 32, 64, 64), depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 4)),
    "vgg11_bn": dict(thin=8, side=64), "visformer_tiny": dict(depth=2, embed_dim=48), "vit_tiny_r_s16_p8_224": dict(depth=2),
    "vitamin_small_224": dict(),
    "xception41p": dict(side=64), "xcit_nano_12_p16_224": dict(depth=2),
}


def network(name: str, size: int = 0, side: int = 0, thin: int = 1, **options) -> Network:
    """Return a network; `size`: it is made for pictures of that side; `thin`: it has so many times fewer channels."""
    if size:
        options["img_size"] = size
    make = functools.partial(timm.create_model, name, num_classes=10, **options)
    if thin > 1:
        make = functools.partial(thinned, make, thin)
    given = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return Network(make, image(size or side or (given.input_size[1] if given else 160)))


NETWORKS = {name: network(name, **options) for name, options in SMALL.items()}
NETWORKS["volo_d1_224"] = Network(functools.partial(
    timm.models.VOLO, layers=(1, 1, 1, 1), embed_dims=(48, 64, 64, 64), num_heads=(2, 4, 4, 4), num_classes=10), image(224))
