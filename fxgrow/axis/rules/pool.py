"""Spatial ops that treat every channel alike: pooling, interpolation, padding, sampling."""
from fxgrow.axis.expressions import Fixed, concat, is_fixed, product
from fxgrow.axis.tape import rule
from fxgrow.axis.values import Value

AVERAGES = {"avg_pool1d": 1, "avg_pool2d": 2, "avg_pool3d": 3, "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3,
            "adaptive_avg_pool1d": 1, "upsample_nearest1d": 1, "upsample_nearest2d": 2, "upsample_nearest3d": 3,
            "upsample_bilinear2d": 2, "upsample_bicubic2d": 2, "upsample_linear1d": 1, "upsample_trilinear3d": 3,
            "_upsample_nearest_exact2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2, "grid_sampler_2d": 2,
            "reflection_pad1d": 1, "reflection_pad2d": 2, "replication_pad1d": 1, "replication_pad2d": 2,
            "upsample_bilinear2d_aa": 2, "grid_sampler_3d": 3, "reflection_pad3d": 3, "replication_pad3d": 3}
MAXIMA = {"max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3, "adaptive_max_pool2d": 2, "adaptive_max_pool3d": 3,
          "max_pool2d": 2, "max_pool3d": 3, "max_pool1d": 1, "max_pool1d_with_indices": 1}


def _but_space(x: Value) -> list[dict[int, int]]:
    """Return the map of dimensions that keeps each but the last two, which are space."""
    return [{i: i for i in range(len(x.axes) - 2)}]


@rule(*AVERAGES, *MAXIMA)
def spatial(tape, name, args, kwargs, out):
    """Freeze the last dimensions, which are space; map the others."""
    x = tape.of(args[0])
    channels = len(x.axes) - (AVERAGES.get(name) or MAXIMA[name])
    tape.freeze_all(x.axes[channels:], "it is spatial")
    first, *others = out if isinstance(out, (tuple, list)) else [out]
    axes = [*x.axes[:channels], *map(Fixed, first.shape[channels:])]
    for o in others:
        tape.map(name, [x], o, axes, fn="any")
    tape.map(name, [x], first, axes, fn="linear" if name in AVERAGES else "fn0")


@rule("constant_pad_nd", "pad")
def constant_pad(tape, name, args, kwargs, out):
    """Pad with a constant, on any dimension."""
    x = tape.of(args[0])
    pads, axes = list(args[1]), list(x.axes)
    for i in range(len(pads) // 2):
        before, after = pads[2 * i:2 * i + 2]
        dim = len(axes) - 1 - i
        if before or after:
            if is_fixed(axes[dim]) or min(before, after) < 0:
                tape.freeze(axes[dim], "it is padded or cropped")
                axes[dim] = Fixed(out.shape[dim])
            else:
                axes[dim] = concat((Fixed(before), axes[dim], Fixed(after)))
    tape.map(name, [x], out, axes, const=len(args) > 2 and bool(args[2]))


@rule("max_unpool2d", "max_unpool3d")
def unpool(tape, name, args, kwargs, out):
    """Move each number to the place in space where its maximum was; the places belong to the same channels."""
    x, places = tape.of(args[0]), tape.of(args[1])
    channels = len(x.axes) - int(name[-2])
    for a, b in zip(x.axes[:channels], places.axes):
        tape.unify(a, b, name)
    tape.freeze_all(x.axes[channels:], "it is spatial")
    same = {i: i for i in range(channels)}
    tape.map(name, [x, places], out, [*x.axes[:channels], *map(Fixed, out.shape[channels:])], [same, same], "any")


@rule("im2col")
def im2col(tape, name, args, kwargs, out):
    """Turn `[N, C, H, W]` to `[N, C*k, L]`."""
    x, kernel = tape.of(args[0]), args[1][0] * args[1][1]
    tape.freeze_all(x.axes[-2:], "it is spatial")
    tape.map(name, [x], out, [*x.axes[:-3], product((x.axes[-3], Fixed(kernel))), Fixed(out.shape[-1])], _but_space(x))


@rule("col2im")
def col2im(tape, name, args, kwargs, out):
    x, kernel = tape.of(args[0]), args[2][0] * args[2][1]
    channels, window = tape.view([x.axes[-2]], [x.axes[-2].size // kernel, kernel], "col2im")
    tape.freeze(window, "it is spatial")
    tape.map(name, [x], out, [*x.axes[:-2], channels, *map(Fixed, out.shape[-2:])], [{i: i for i in range(len(x.axes) - 1)}])


@rule("pixel_shuffle")
def pixel_shuffle(tape, name, args, kwargs, out):
    """Turn `[*, C*r*r, H, W]` to `[*, C, H*r, W*r]`."""
    x, r = tape.of(args[0]), args[1]
    channels, block = tape.view([x.axes[-3]], [x.axes[-3].size // (r * r), r * r], "pixel_shuffle")
    tape.freeze(block, "pixel_shuffle moves it to space")
    tape.freeze_all(x.axes[-2:], "it is spatial")
    tape.map(name, [x], out, [*x.axes[:-3], channels, *map(Fixed, out.shape[-2:])], _but_space(x))


@rule("pixel_unshuffle")
def pixel_unshuffle(tape, name, args, kwargs, out):
    x, r = tape.of(args[0]), args[1]
    tape.freeze_all(x.axes[-2:], "it is spatial")
    tape.map(name, [x], out, [*x.axes[:-3], product((x.axes[-3], Fixed(r * r))), *map(Fixed, out.shape[-2:])], _but_space(x))


@rule("unfold")
def unfold(tape, name, args, kwargs, out):
    """Make windows along one dimension a new last one: `tensor.unfold(dim, size, step)`."""
    x = tape.of(args[0])
    dim = args[1] % len(x.axes)
    tape.freeze(x.axes[dim], "it is cut into windows")
    axes = [Fixed(out.shape[i]) if i == dim else a for i, a in enumerate(x.axes)] + [Fixed(out.shape[-1])]
    tape.map(name, [x], out, axes, [{i: i for i in range(len(x.axes))}])
