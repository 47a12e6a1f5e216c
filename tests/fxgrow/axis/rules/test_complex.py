"""Complex parameters grow like real ones; deformable convolutions like others."""
from __future__ import annotations

import pytest
import torch
from support import grow
from torch import nn

from fxgrow.passes import Widen


class Fourier(nn.Module):
    """A layer of a Fourier neural operator: low frequencies are mixed by complex weights."""

    def __init__(self, width=6, modes=3):
        super().__init__()
        self.modes, self.lift, self.skip = modes, nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1)
        self.kernel = nn.Parameter(torch.randn(width, width, modes, modes, dtype=torch.complex128))
        self.drop = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x, n = self.lift(x), self.modes
        waves = torch.fft.rfft2(x)
        mixed = torch.zeros_like(waves)
        mixed[:, :, :n, :n] = torch.einsum("bixy,ioxy->boxy", waves[:, :, :n, :n], self.kernel)
        return self.drop(torch.tanh(self.skip(x) + torch.fft.irfft2(mixed, s=x.shape[-2:])))


class Sizes(nn.Module):
    """Sums in complex numbers, and their sizes."""

    def __init__(self):
        super().__init__()
        self.weight, self.last = nn.Parameter(torch.randn(3, 6, dtype=torch.complex128)), nn.Linear(4, 2)
        self.bias, self.mix = (nn.Parameter(torch.randn(*n, dtype=torch.complex128)) for n in ((6,), (6, 4)))

    def forward(self, x):
        x = x.to(self.weight.dtype) @ self.weight + self.bias
        return self.last((torch.complex(x.real.tanh(), x.imag.relu()) @ self.mix).abs())


@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
def test_complex_parameters_grow(method):
    torch.manual_seed(0)
    grown = grow(Fourier(), torch.randn(2, 3, 7, 8), Widen(factor=2, method=method, seed=0))
    kernel = grown.model.get_parameter("kernel")
    assert kernel.shape == (12, 12, 3, 3) and [o.method for o in grown.outcomes if o.method] == [method]
    assert method != "r2r" or min(float(part.std()) for part in (kernel[6:, 6:].real, kernel[6:, 6:].imag)) > 0.3
    grown = grow(Sizes(), torch.randn(5, 3), Widen(factor=2, method=method, seed=0))
    assert grown.model.get_parameter("mix").shape == (12, 8)


class Deformed(nn.Module):
    """A convolution at places that are computed; of `parts` equal parts of the channels, each has places of its own."""

    def __init__(self, groups: int, parts: int, mask: bool):
        super().__init__()
        ops = pytest.importorskip("torchvision.ops")
        self.stem, self.places = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 18 * parts, 3, padding=1)
        self.mask = nn.Conv2d(8, 9 * parts, 1) if mask else None
        self.deform, self.head = ops.DeformConv2d(8, 4, 3, padding=1, groups=groups), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        mask = None if self.mask is None else self.mask(x).sigmoid()
        return self.head(self.deform(x, self.places(x), mask).relu())


@pytest.mark.thinned(3)
@pytest.mark.parametrize("method", ["r2r", "net2net", "netmorph"])
@pytest.mark.parametrize("groups, parts, mask", [(1, 1, True), (1, 2, False), (2, 2, True)])
def test_a_deformable_convolution_grows(groups, parts, mask, method):
    torch.manual_seed(0)
    grown = grow(Deformed(groups, parts, mask), torch.randn(2, 3, 5, 6), Widen(factor=2, method=method, seed=0))
    assert grown.model.get_parameter("deform.weight").shape == (8, 16 // groups, 3, 3)
    assert grown.model.get_parameter("places.weight").shape[0] == 18 * parts
