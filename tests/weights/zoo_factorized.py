"""R(2+1)D and X3D of other libraries in torch, with their names; see `zoo_networks`."""

import math

import torch.nn.functional as F
from torch import nn

from tests.weights.zoo_networks import R50, Net, through


def mmaction2(part, stage=0, block=0):
    """Parts end with s or t: the halves of a (2+1)D convolution, with the BN that follows each."""
    where = "backbone.conv1" if part[:-1] == "stem" else f"backbone.layer{stage + 1}.{block}."
    if part == "fc":
        return "cls_head.fc_cls"
    if part[:-1] != "stem":
        where += "downsample" if part[:-1] == "down" else f"conv{part[:-1]}"
    inner = f"{where}.conv.conv_{part[-1]}"
    return inner, f"{where}.conv.bn_s" if part[-1] == "s" else f"{where}.bn"


def gluoncv_v1(part, stage=0, block=0):
    stem = {"stem s": ("conv1", "bn1"), "stem t": ("conv2", "bn2"), "fc": "fc"}
    if part in stem:
        return stem[part]
    where = f"layer{stage + 1}.{block}."
    if part == "down":
        return f"{where}downsample.0", f"{where}downsample.1"
    conv = f"{where}conv{part[0]}"
    return {
        "s": (f"{conv}.conv1", f"{conv}.bn1"),
        "t": (f"{conv}.conv2", f"{where}bn{part[0]}"),
        "": (conv, f"{where}bn{part[0]}"),
    }[part[1:]]


def gluoncv_v2(part, stage=0, block=0):
    stem = {"stem s": ("conv1_middle", "bn1_middle"), "stem t": ("conv1", "bn1"), "fc": "out_fc"}
    if part in stem:
        return stem[part]
    where = f"layer{stage + 1}.{block}."
    if part == "down":
        return f"{where}down_sample.0", f"{where}down_sample.1"
    middle = "_middle" if part.endswith("s") else ""
    return f"{where}conv{part[0]}{middle}", f"{where}bn{part[0]}{middle}"


def vmz(part, stage=0, block=0):
    stem = {"stem s": ("stem.0", "stem.1"), "stem t": ("stem.3", "stem.4"), "fc": "fc"}
    if part in stem:
        return stem[part]
    where = f"layer{stage + 1}.{block}."
    if part == "down":
        return f"{where}downsample.0", f"{where}downsample.1"
    conv = f"{where}conv{part[0]}"
    return {
        "s": (f"{conv}.0.0", f"{conv}.0.1"),
        "t": (f"{conv}.0.3", f"{conv}.1"),
        "": (f"{conv}.0", f"{conv}.1"),
    }[part[1:]]


def vmz_caffe2(blocks):
    def place(part, stage=0, block=0):
        stem = {
            "stem s": ("conv1_middle", "conv1_middle_spatbn_relu"),
            "stem t": ("conv1", "conv1_spatbn_relu"),
            "fc": "last_out_L5",
        }
        if part in stem:
            return stem[part]
        i = sum(blocks[:stage]) + block
        if part == "down":
            return f"shortcut_projection_{i}", f"shortcut_projection_{i}_spatbn"
        middle = "_middle" if part.endswith("s") else ""
        return f"comp_{i}_conv_{part[0]}{middle}", f"comp_{i}_spatbn_{part[0]}{middle}"

    return place


def middle(i, o, kernel=9):
    """Channels between the halves of a (2+1)D convolution with a kernel of 3 x 3 (9) or 1 x 1."""
    return 3 * kernel * i * o // (kernel * i + 3 * o)


def r2plus1d(
    place,
    blocks,
    width=8,
    deep=False,
    per_block=False,
    stem_mid=45,
    pool=False,
    eps=1e-5,
    inner_eps=None,
    factorized_down=False,
    classes=5,
):
    """Basic blocks, or bottlenecks if `deep`. The middle of a basic block may be that of the block.

    `inner_eps` is the epsilon of the BatchNorm between two halves, if it differs.
    """
    net, steps = Net(), []

    def both(part, i, o, mid, kernel, stride, relu=True, at=place):
        spatial, temporal = (part + half for half in ("s", "t"))
        t, k = kernel
        how = {"eps": inner_eps or eps}
        first = net.unit(at(spatial), i, mid, (1, k, k), (1, stride[1], stride[1]), **how)
        second = net.unit(at(temporal), mid, o, (t, 1, 1), (stride[0], 1, 1), eps=eps, relu=relu)
        return lambda x: second(first(x))

    gap = "stem " if place is not mmaction2 else "stem"
    mid = stem_mid * width // 64
    steps.append(both(gap, 3, width, mid, (3, 7), (1, 2)))
    if pool:
        steps.append(lambda x: F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    i = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            inner, s = width * 2**stage, 2 if stage and not block else 1
            o = 4 * inner if deep else inner

            def at(part, stage=stage, block=block):
                return place(part, stage, block)

            down = None
            if (s > 1 or i != o) and factorized_down:
                down = both("down", i, o, middle(i, o, 1), (1, 1), (s, s), relu=False, at=at)
            elif s > 1 or i != o:
                down = net.unit(at("down"), i, o, 1, s, eps=eps, relu=False)
            if deep:
                mid = middle(i if per_block else inner, inner)
                units = (
                    net.unit(at("1"), i, inner, 1, eps=eps),
                    both("2", inner, inner, mid, (3, 3), (s, s), at=at),
                    net.unit(at("3"), inner, o, 1, eps=eps, relu=False),
                )
            else:
                first, second = middle(i, o), middle(i if per_block else o, o)
                units = (
                    both("1", i, o, first, (3, 3), (s, s), at=at),
                    both("2", o, o, second, (3, 3), (1, 1), relu=False, at=at),
                )
            i = o

            def run(x, units=units, down=down):
                return (through(units, x) + (x if down is None else down(x))).relu()

            steps.append(run)
    fc = net.put(place("fc"), nn.Linear(i, classes))
    net.run = lambda x: fc(through(steps, x).mean((2, 3, 4)))
    return net


def x3d(classes=5):
    """X3D-S and -M of mmaction2."""
    net, steps, i = Net(), [], 24
    stem = net.put(
        "backbone.conv1_s.conv", nn.Conv3d(3, i, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
    )
    temporal = "backbone.conv1_t.conv", "backbone.conv1_t.bn"
    steps += [stem, net.unit(temporal, i, i, (5, 1, 1), groups=i)]
    for stage, count in enumerate((3, 5, 11, 7)):
        o = 24 * 2**stage
        inner = int(2.25 * o)
        for block in range(count):
            where, stride = f"backbone.layer{stage + 1}.{block}.", 1 if block else 2

            def unit(name, i, o, kernel, where=where, **how):
                names = f"{where}{name}.conv", f"{where}{name}.bn"
                return net.unit(names, i, o, kernel, **how)

            strides = (1, stride, stride)
            down = None if block else unit("downsample", i, o, 1, stride=strides, relu=False)
            first = unit("conv1", i, inner, 1)
            depthwise = unit("conv2", inner, inner, 3, stride=strides, groups=inner, relu=False)
            last = unit("conv3", inner, o, 1, relu=False)
            squeeze = ()
            if block % 2 == 0:
                small = max(8, 8 * math.floor(inner / 16 / 8 + 0.5))
                small += 8 if small < 0.9 * inner / 16 else 0
                squeeze = (
                    net.put(f"{where}se_module.fc1", nn.Conv3d(inner, small, 1)),
                    net.put(f"{where}se_module.fc2", nn.Conv3d(small, inner, 1)),
                )

            def run(x, first=first, depthwise=depthwise, last=last, squeeze=squeeze, down=down):
                y = depthwise(first(x))
                if squeeze:
                    reduce, expand = squeeze
                    y = y * expand(reduce(y.mean((2, 3, 4), keepdim=True)).relu()).sigmoid()
                y = last(y * y.sigmoid())
                return (y + (x if down is None else down(x))).relu()

            steps.append(run)
            i = o
    steps.append(net.unit(("backbone.conv5.conv", "backbone.conv5.bn"), i, inner, 1))
    fc1 = net.put("cls_head.fc1", nn.Linear(inner, 2048, bias=False))
    fc2 = net.put("cls_head.fc2", nn.Linear(2048, classes))
    net.run = lambda x: fc2(fc1(through(steps, x).mean((2, 3, 4))).relu())
    return net


def echonet(width=8):
    """torchvision's R(2+1)D-18 with one output."""
    return r2plus1d(vmz, (2, 2, 2, 2), width, per_block=True, classes=1)


def c3d(width=8, hidden=512, classes=5):
    """VMZ's C3D: BatchNorm, pools rounded down, and fc6 on a map in the order (C, T, H, W)."""
    net, steps, i = Net(), [], 3
    for name, o in zip(("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b"), C3D, strict=True):
        o = o * width // 64
        steps.append(net.unit((f"conv{name}", f"conv{name}_bn"), i, o, 3, eps=1e-3, bias=True))
        if name in ("1a", "2a", "3b", "4b", "5b"):
            window = (1 if name == "1a" else 2, 2, 2)
            steps.append(lambda x, window=window: F.max_pool3d(x, window))
        i = o
    fc6 = net.put("fc6", nn.Linear(9 * i, hidden))
    fc7 = net.put("fc7", nn.Linear(hidden, hidden))
    last = net.put("last_out_L5", nn.Linear(hidden, classes))
    net.run = lambda x: last(fc7(fc6(through(steps, x).flatten(1)).relu()).relu())
    return net


R34, R18 = R50, (2, 2, 2, 2)
C3D = (64, 128, 256, 256, 512, 512, 512, 512)
