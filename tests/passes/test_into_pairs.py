"""Every pair of tools/grow_pairs.py: exact, or refused for the reason that is known."""
import importlib.util
from pathlib import Path

import pytest

from fxgrow.errors import GrowthError

spec = importlib.util.spec_from_file_location("grow_pairs", Path(__file__).resolve().parents[2] / "tools" / "grow_pairs.py")
pairs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pairs)

REFUSED = {"regnet_y_800mf": "no counterpart", "regnet_x_800mf": "no counterpart", "convnext_base": "integer factor",
           "shufflenet_v2_x1_0": "shuffled", "swin_b": "integer factor"}


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
