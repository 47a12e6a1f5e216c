"""Every pair of tools/grow_pairs.py: exact, or refused for the reason that is known."""
import pytest
from scripts import script

from fxgrow.errors import GrowthError

pairs = script("grow_pairs")
NO_PART, NO_MULTIPLE = "no counterpart", "integer factor"
REFUSED = {"regnet_y_800mf": NO_PART, "regnet_x_800mf": NO_PART, "convnext_base": NO_MULTIPLE, "swin_b": NO_MULTIPLE,
           "shufflenet_v2_x1_0": "shuffled", "mobilenetv3_small_100": NO_PART, "mixer_b16_224": NO_MULTIPLE,
           "regnety_004": NO_PART, "convnext_femto": NO_MULTIPLE, "repvgg_b0": NO_PART, "mixnet_m": NO_PART,
           "dla60": NO_PART}


@pytest.mark.sweep
@pytest.mark.parametrize("small, big, size", pairs.PAIRS, ids=lambda v: str(v))
def test_pair(small, big, size):
    if big.startswith("timm:"):
        pytest.importorskip("timm")
    reason = REFUSED.get(big.partition(":")[2])
    if reason is None:
        assert pairs.compare(small, big, size)[0] <= 1e-9
    else:
        with pytest.raises(GrowthError, match=reason):
            pairs.compare(small, big, size)


def test_the_smallest_pair():
    assert pairs.compare("torchvision:mobilenet_v2:width_mult=0.5", "torchvision:mobilenet_v2", 32)[0] <= 1e-9
