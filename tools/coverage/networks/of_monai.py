"""Networks of MONAI, most of them for volumes."""
import functools

import torch
from measuring import Network, image
from monai.networks import nets
from thin import thin

ONE = dict(spatial_dims=3, in_channels=1, out_channels=2)
FLAT = dict(spatial_dims=2, in_channels=1, out_channels=2)
PICTURE = image(64, 1)


def volume(channels: int):
    """Return inputs of one volume, a cube or one side of it longer."""
    def inputs(batch: int, longer: int) -> tuple:
        return torch.randn(batch, channels, 32 + 16 * longer, 32, 32),
    return inputs


VOLUME = volume(1)


def time(inputs):
    """Return inputs with a step of time behind them."""
    def with_time(batch: int, longer: int) -> tuple:
        return *inputs(batch, longer), torch.randint(0, 50, (batch,))
    return with_time


def of(name: str, inputs, *args, **options) -> Network:
    return Network(functools.partial(getattr(nets, name), *args, **options), inputs)


NETWORKS = {
    "UNet": of("UNet", VOLUME, **ONE, channels=(4, 8, 16), strides=(2, 2), num_res_units=1),
    "UNet, flat": of("UNet", PICTURE, **FLAT, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch"),
    "BasicUNet": of("BasicUNet", VOLUME, **ONE, features=(4, 4, 8, 8, 16, 4)),
    "BasicUNetPlusPlus": of("BasicUNetPlusPlus", PICTURE, **FLAT, features=(4, 4, 8, 8, 16, 4)),
    "AttentionUnet": of("AttentionUnet", VOLUME, **ONE, channels=(4, 8, 16), strides=(2, 2)),
    "DynUNet": of("DynUNet", VOLUME, **ONE, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
                  filters=[4, 8, 16]),
    "SegResNet": of("SegResNet", VOLUME, **ONE, init_filters=4, norm=("GROUP", {"num_groups": 2})),
    "SegResNetDS": of("SegResNetDS", VOLUME, **ONE, init_filters=4, blocks_down=(1, 1, 1)),
    "SegResNetVAE": of("SegResNetVAE", image(16, 1, 3, 0), [16, 16, 16], **ONE, init_filters=8,
                       norm=("GROUP", {"num_groups": 2})),
    "SwinUNETR": of("SwinUNETR", image(64, 1, 2), **FLAT, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2),
                    window_size=4),
    "UNETR": of("UNETR", image(32, 1, 2, 0), 1, 2, (32, 32), feature_size=4, hidden_size=48, mlp_dim=48, num_heads=4,
                spatial_dims=2),
    "VNet": of("VNet", image(16, 1, 2, 16), 2, 1, 1, dropout_dim=2),
    "HighResNet": of("HighResNet", image(16, 1), **FLAT), "DenseNet": of("DenseNet", PICTURE, **FLAT, init_features=8,
                                                                  growth_rate=4, block_config=(2, 2)),
    "EfficientNetBN": of("EfficientNetBN", PICTURE, "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1,
                         num_classes=2),
    "ResNet": of("ResNet", VOLUME, "basic", [1, 1, 1, 1], [4, 8, 16, 32], n_input_channels=1, num_classes=3),
    "SENet": Network(functools.partial(thin, functools.partial(nets.SENet, 2, 1, "se_bottleneck", [1, 1, 1, 1], 1, 16,
                                                               inplanes=8, num_classes=3), 4), PICTURE),
    "AutoEncoder": of("AutoEncoder", PICTURE, **FLAT, channels=(4, 8), strides=(2, 2)),
    "VarAutoEncoder": of("VarAutoEncoder", image(32, 1, 2, 0), 2, (1, 32, 32), 1, 8, (4, 8), (2, 2)),
    "ViT": of("ViT", image(32, 1, 2, 0), 1, (32, 32), (8, 8), hidden_size=32, mlp_dim=48, num_layers=2, num_heads=4,
              classification=True, spatial_dims=2),
    "ViTAutoEnc": of("ViTAutoEnc", image(64, 1, 2, 0), 1, (64, 64), (16, 16), hidden_size=32, mlp_dim=48, num_layers=2,
                     num_heads=4, spatial_dims=2),
    "FlexibleUNet": of("FlexibleUNet", PICTURE, 1, 2, "efficientnet-b0", decoder_channels=(16, 16, 8, 8, 4), spatial_dims=2),
    "MedNeXt": of("MedNeXt", image(16, 1), **FLAT, init_filters=4), "QuickNAT": of("Quicknat", PICTURE, num_channels=1,
                                                                            num_filters=8),
    "VoxelMorphUNet": of("VoxelMorphUNet", volume(2), 3, 2, 2, (4, 8, 8, 8), (8, 8, 8, 4, 4, 4)),
    "LocalNet": of("LocalNet", image(16, 1), 2, 1, 4, out_channels=2, extract_levels=(0, 2)),
    "RegUNet": of("RegUNet", VOLUME, 3, 1, 4, 2, out_channels=2),
    "Discriminator": of("Discriminator", image(32, 1, 2, 0), (1, 32, 32), (4, 8), (2, 2), num_res_units=1),
    "PatchDiscriminator": of("PatchDiscriminator", PICTURE, 2, 4, 1), "AutoencoderKL": of("AutoencoderKL", PICTURE, 2, 1, 1,
                                                                                          (1, 1), (8, 16), (False, True), 2,
                                                                                          4),
    "VQVAE": of("VQVAE", PICTURE, 2, 1, 1, (8, 16), 1, (8, 16), downsample_parameters=((2, 4, 1, 1),) * 2,
                upsample_parameters=((2, 4, 1, 1, 0),) * 2, num_embeddings=8, embedding_dim=8),
    "DiffusionModelUNet": of("DiffusionModelUNet", time(image(16, 1)), 2, 1, 1, (1, 1), (8, 16), (False, True),
                             num_head_channels=8, norm_num_groups=4),
    "FullyConnectedNet": of("FullyConnectedNet", lambda batch, longer: (torch.randn(batch, 6),), 6, 3, (8, 12)),
}
