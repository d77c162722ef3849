"""Small versions of other libraries' networks in torch, with their names and conventions.

They follow the published descriptions and have the names of the weight files. Widths are arguments,
so that a test takes seconds.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def randomize(network, seed=0):
    """Sets distinct random weights and running statistics; returns the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.uniform_(low, high, generator=generator)

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
            if module.bias is not None:
                uniform(module.bias, -0.5, 0.5)
        elif isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            uniform(module.weight, 0.5, 1.5)
            uniform(module.bias, -0.3, 0.3)
            uniform(module.running_mean, -0.3, 0.3)
            uniform(module.running_var, 0.5, 2.0)
    return network.eval()


def conv(i, o, kernel, stride=1, groups=1):
    padding = tuple(k // 2 for k in kernel)
    return nn.Conv3d(i, o, kernel, stride, padding, groups=groups, bias=False)


class HaraBlock(nn.Module):
    """Basic (expansion 0) or bottleneck; shortcut A or B; with or without pre-activation."""

    def __init__(self, i, planes, stride, expansion, shortcut, preactivation, groups, factorized):
        super().__init__()
        out = planes * (expansion or 1)
        kernels = [(i, planes, 3, stride), (planes, planes, 3, 1)]
        if expansion:
            kernels = [(i, planes, 1, 1), (planes, planes, 3, stride), (planes, out, 1, 1)]
        self.units, self.preactivation = [], preactivation
        for n, (a, b, k, s) in enumerate(kernels, start=1):
            if factorized and k == 3:
                mid = a * b * 27 // (a * 9 + 3 * b)
                setattr(self, f"conv{n}_s", conv(a, mid, (1, 3, 3), (1, s, s)))
                setattr(self, f"bn{n}_s", nn.BatchNorm3d(mid))
                setattr(self, f"conv{n}_t", conv(mid, b, (3, 1, 1), (s, 1, 1)))
                setattr(self, f"bn{n}_t", nn.BatchNorm3d(b))
                self.units.append((n, "st"))
            else:
                setattr(self, f"conv{n}", conv(a, b, (k,) * 3, s, groups if k == 3 else 1))
                setattr(self, f"bn{n}", nn.BatchNorm3d(a if preactivation else b))
                self.units.append((n, ""))
        self.out, self.stride, self.changes = out, stride, stride != 1 or i != out
        self.downsample = None
        if self.changes and shortcut == "B":
            self.downsample = nn.Sequential(conv(i, out, (1, 1, 1), stride), nn.BatchNorm3d(out))

    def short(self, x):
        if not self.changes:
            return x
        if self.downsample is not None:
            return self.downsample(x)
        x = F.avg_pool3d(x, 1, self.stride)
        return torch.cat([x, x.new_zeros(x.shape[0], self.out - x.shape[1], *x.shape[2:])], 1)

    def forward(self, x):
        y = x
        for n, kind in self.units:
            if kind == "st":
                y = getattr(self, f"bn{n}_s")(getattr(self, f"conv{n}_s")(y)).relu()
                y = getattr(self, f"bn{n}_t")(getattr(self, f"conv{n}_t")(y))
            elif self.preactivation:
                y = getattr(self, f"conv{n}")(getattr(self, f"bn{n}")(y).relu())
            else:
                y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            if not self.preactivation and n < len(self.units):
                y = y.relu()
        y = y + self.short(x)
        return y if self.preactivation else y.relu()


class HaraNet(nn.Module):
    def __init__(
        self,
        blocks,
        width=8,
        widen=1,
        expansion=0,
        shortcut="B",
        preactivation=False,
        groups=1,
        factorized=False,
        classes=5,
    ):
        super().__init__()
        self.factorized = factorized
        if factorized:
            mid = 3 * width * 343 // (3 * 49 + 7 * width)
            self.conv1_s = conv(3, mid, (1, 7, 7), (1, 2, 2))
            self.bn1_s = nn.BatchNorm3d(mid)
            self.conv1_t = conv(mid, width, (7, 1, 1))
            self.bn1_t = nn.BatchNorm3d(width)
        else:
            self.conv1 = conv(3, width, (7, 7, 7), (1, 2, 2))
            self.bn1 = nn.BatchNorm3d(width)
        i = width
        for n, count in enumerate(blocks):
            planes, layer = width * widen * 2**n, []
            for b in range(count):
                stride = 2 if n and not b else 1
                layer.append(
                    HaraBlock(
                        i, planes, stride, expansion, shortcut, preactivation, groups, factorized
                    )
                )
                i = planes * (expansion or 1)
            setattr(self, f"layer{n + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(i, classes)

    def stages(self, x):
        if self.factorized:
            x = self.bn1_t(self.conv1_t(self.bn1_s(self.conv1_s(x)).relu())).relu()
        else:
            x = self.bn1(self.conv1(x)).relu()
        yield "conv1", x
        x = F.max_pool3d(x, 3, 2, 1)
        yield "pool1", x
        for n in range(1, 5):
            x = getattr(self, f"layer{n}")(x)
            yield f"conv{n + 1}_x", x
        yield "fc", self.fc(x.mean((2, 3, 4)))


class P3DBlock(nn.Module):
    def __init__(self, i, planes, wiring, stride):
        super().__init__()
        self.wiring, flat = wiring, wiring == "2D"
        layer = nn.Conv2d if flat else nn.Conv3d
        norm = nn.BatchNorm2d if flat else nn.BatchNorm3d
        strides = (stride if flat else (1, stride, stride),)
        self.conv1, self.bn1 = layer(i, planes, 1, *strides, bias=False), norm(planes)
        if flat:
            self.conv_normal = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
            self.bn_normal = norm(planes)
        else:
            self.conv2, self.bn2 = conv(planes, planes, (1, 3, 3)), norm(planes)
            self.conv3, self.bn3 = conv(planes, planes, (3, 1, 1)), norm(planes)
        self.conv4, self.bn4 = layer(planes, 4 * planes, 1, bias=False), norm(4 * planes)
        self.downsample = None
        if stride != 1 or i != 4 * planes:
            self.downsample = nn.Sequential(
                layer(i, 4 * planes, 1, *strides, bias=False), norm(4 * planes)
            )

    def forward(self, x):
        short = x if self.downsample is None else self.downsample(x)
        x = self.bn1(self.conv1(x)).relu()
        if self.wiring == "2D":
            x = self.bn_normal(self.conv_normal(x)).relu()
        else:
            s = self.bn2(self.conv2(x)).relu()
            t = self.bn3(self.conv3(x if self.wiring == "B" else s)).relu()
            x = t if self.wiring == "A" else s + t
        return (self.bn4(self.conv4(x)) + short).relu()


class P3DNet(nn.Module):
    def __init__(self, blocks, width=8, classes=5):
        super().__init__()
        self.conv1_custom = conv(3, width, (1, 7, 7), (1, 2, 2))
        self.bn1 = nn.BatchNorm3d(width)
        i, block = width, 0
        for n, count in enumerate(blocks):
            layer = []
            for b in range(count):
                wiring = "2D" if n == 3 else "ABC"[block % 3]
                layer.append(P3DBlock(i, width * 2**n, wiring, 2 if n and not b else 1))
                i, block = 4 * width * 2**n, block + 1
            setattr(self, f"layer{n + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(i, classes)

    def stages(self, x):
        x = self.bn1(self.conv1_custom(x)).relu()
        yield "conv1", x
        x = F.max_pool3d(x, (2, 3, 3), 2, (0, 1, 1))
        yield "pool1", x
        for n in range(1, 4):
            x = getattr(self, f"layer{n}")(x)
            yield f"conv{n + 1}_x", x
            x = F.max_pool3d(x, (2, 1, 1))
        x = self.layer4(x[:, :, 0])
        yield "conv5_x", x[:, :, None]
        yield "fc", self.fc(x.mean((2, 3)))


class C3DNet(nn.Module):
    """`names` are the names of the eight convolutions and three dense layers."""

    def __init__(self, names, widths=(8, 12, 16, 16, 24, 24, 24, 24), hidden=40, classes=5):
        super().__init__()
        self.names = names
        # Dots in the name of a module separate the parts of a path.
        self.parts = nn.ModuleDict()
        i = 3
        for name, o in zip(names[:8], widths, strict=True):
            self.parts[name.replace(".", "|")] = nn.Conv3d(i, o, 3, padding=1)
            i = o
        for name, o in zip(names[8:], (hidden, hidden, classes), strict=True):
            i = i * 16 if name == names[8] else i
            self.parts[name.replace(".", "|")] = nn.Linear(i, o)
            i = o

    def named_weights(self):
        return {
            key.removeprefix("parts.").replace("|", "."): value
            for key, value in self.state_dict().items()
        }

    def stages(self, x, symmetric):
        layer = [self.parts[name.replace(".", "|")] for name in self.names]
        ours = ["1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b"]
        for n, name in enumerate(ours):
            x = layer[n](x).relu()
            yield f"conv{name}", x
            if name in ("1a", "2a", "3b", "4b"):
                window = (1, 2, 2) if name == "1a" else 2
                x = F.max_pool3d(x, window)
        if symmetric:
            x = F.max_pool3d(x, 2, 2, (0, 1, 1))
        else:  # As in Caffe, windows at the end are cut off.
            x = F.max_pool3d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2)
        yield "pool5", x
        x = layer[8](x.flatten(1)).relu()
        yield "fc6", x
        x = layer[9](x).relu()
        yield "fc7", x
        yield "fc8", layer[10](x)


# The Inception block: channels of b0, b1 reduce, b1, b2 reduce, b2, b3.
INCEPTION = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
# The trunk: convolutions (features, kernel, stride), pools (kernel, stride), blocks.
INCEPTION_TRUNK = {
    "conv_1a": (64, 7, 2),
    "pool_2a": ((1, 3, 3), (1, 2, 2)),
    "conv_2b": (64, 1, 1),
    "conv_2c": (192, 3, 1),
    "pool_3a": ((1, 3, 3), (1, 2, 2)),
    "mixed_3b": "3b",
    "mixed_3c": "3c",
    "pool_4a": ((3, 3, 3), (2, 2, 2)),
    "mixed_4b": "4b",
    "mixed_4c": "4c",
    "mixed_4d": "4d",
    "mixed_4e": "4e",
    "mixed_4f": "4f",
    "pool_5a": ((2, 2, 2), (2, 2, 2)),
    "mixed_5b": "5b",
    "mixed_5c": "5c",
}


def pad_same(x, kernel, strides):
    """TF's SAME padding: the last window is completed; an odd zero is added at the end."""
    pads = []
    for n, k, s in zip(x.shape[2:], kernel, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        pads = [total // 2, total - total // 2, *pads]
    return F.pad(x, pads)


class SamePool(nn.Module):
    """Zero padding does not change a maximum after a ReLU."""

    def __init__(self, kernel, strides):
        super().__init__()
        self.window = kernel, strides

    def forward(self, x):
        return F.max_pool3d(pad_same(x, *self.window), *self.window)


class SameUnit(nn.Module):
    def __init__(self, i, o, k, s=1, norm="bn"):
        super().__init__()
        self.conv3d = nn.Conv3d(i, o, k, s, bias=False)
        self.norm, self.window = norm, ((k,) * 3, (s,) * 3)
        setattr(self, norm, nn.BatchNorm3d(o, eps=1e-3))

    def forward(self, x):
        return getattr(self, self.norm)(self.conv3d(pad_same(x, *self.window))).relu()


class PiergiajBlock(nn.Module):
    def __init__(self, i, features):
        super().__init__()
        b0, b1r, b1, b2r, b2, b3 = features
        self.b0 = SameUnit(i, b0, 1)
        self.b1a, self.b1b = SameUnit(i, b1r, 1), SameUnit(b1r, b1, 3)
        self.b2a, self.b2b = SameUnit(i, b2r, 1), SameUnit(b2r, b2, 3)
        self.b3a, self.b3b = SamePool((3, 3, 3), (1, 1, 1)), SameUnit(i, b3, 1)

    def forward(self, x):
        outputs = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(outputs, 1)


class SequencesBlock(nn.Module):
    """Block of Hasson's and Min's ports: each branch is a sequence, or a single unit.

    `unit(i, o, k)` builds a convolution with BatchNorm and ReLU.
    """

    def __init__(self, i, features, unit, pool, name="branch_{}", single=False):
        super().__init__()
        b0, b1r, b1, b2r, b2, b3 = features
        branches = (
            [unit(i, b0, 1)],
            [unit(i, b1r, 1), unit(b1r, b1, 3)],
            [unit(i, b2r, 1), unit(b2r, b2, 3)],
            [pool, unit(i, b3, 1)],
        )
        self.names = [name.format(number) for number in range(4)]
        for name, branch in zip(self.names, branches, strict=True):
            one = single and len(branch) == 1
            setattr(self, name, branch[0] if one else nn.Sequential(*branch))

    def forward(self, x):
        return torch.cat([getattr(self, name)(x) for name in self.names], 1)


class I3DNet(nn.Module):
    """piergiaj/pytorch-i3d, or hassony2/kinetics_i3d_pytorch (`hasson`); SAME padding."""

    def __init__(self, hasson, channels=3, width=1 / 8, classes=5):
        super().__init__()
        self.parts, i = {}, channels
        for ours, row in INCEPTION_TRUNK.items():
            stage = ours.split("_")[1]
            if isinstance(row, str):
                features = [max(round(f * width), 1) for f in INCEPTION[row]]
                part, theirs = PiergiajBlock(i, features), f"Mixed_{stage}"
                if hasson:
                    pool = SamePool((3, 3, 3), (1, 1, 1))
                    part = SequencesBlock(i, features, self.hasson_unit, pool, single=True)
                    theirs = f"mixed_{stage}"
                i = features[0] + features[2] + features[4] + features[5]
            elif len(row) == 2:
                part, theirs = SamePool(*row), f"pool_{stage}"
            else:
                o, k, s = max(round(row[0] * width), 1), *row[1:]
                theirs = f"{'conv' if hasson else 'Conv'}3d_{stage}_{k}x{k}"
                part, i = SameUnit(i, o, k, s, "batch3d" if hasson else "bn"), o
            setattr(self, theirs, part)
            self.parts[ours] = part
        self.head = "conv3d_0c_1x1" if hasson else "logits"
        setattr(self, self.head, nn.ModuleDict({"conv3d": nn.Conv3d(i, classes, 1)}))

    @staticmethod
    def hasson_unit(i, o, k):
        return SameUnit(i, o, k, norm="batch3d")

    def stages(self, x):
        for ours, part in self.parts.items():
            x = part(x)
            yield ours, x
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        yield "avg_pool", x
        yield "logits", getattr(self, self.head)["conv3d"](x).mean((2, 3, 4))


class MinUnit(nn.Module):
    """kylemin/S3D: a convolution, or a separable one."""

    def __init__(self, i, o, k, s=1):
        super().__init__()
        self.halves = ("s", "t") if k > 1 else ("",)
        if k == 1:
            self.conv, self.bn = nn.Conv3d(i, o, 1, bias=False), nn.BatchNorm3d(o, eps=1e-3)
            return
        self.conv_s, self.bn_s = conv(i, o, (1, k, k), (1, s, s)), nn.BatchNorm3d(o, eps=1e-3)
        self.conv_t, self.bn_t = conv(o, o, (k, 1, 1), (s, 1, 1)), nn.BatchNorm3d(o, eps=1e-3)

    def forward(self, x):
        if self.halves == ("",):
            return self.bn(self.conv(x)).relu()
        x = self.bn_s(self.conv_s(x)).relu()
        return self.bn_t(self.conv_t(x)).relu()


class MinNet(nn.Module):
    """kylemin/S3D; symmetric padding."""

    def __init__(self, width=1 / 8, classes=5):
        super().__init__()
        parts, i = [], 3
        for row in INCEPTION_TRUNK.values():
            if isinstance(row, str):
                features = [max(round(f * width), 1) for f in INCEPTION[row]]
                pool = nn.MaxPool3d(3, 1, 1)
                parts.append(SequencesBlock(i, features, MinUnit, pool, "branch{}"))
                i = features[0] + features[2] + features[4] + features[5]
            elif len(row) == 2:
                kernel, strides = row
                parts.append(nn.MaxPool3d(kernel, strides, tuple((k - 1) // 2 for k in kernel)))
            else:
                o, k, s = max(round(row[0] * width), 1), *row[1:]
                parts.append(MinUnit(i, o, k, s))
                i = o
        self.base = nn.Sequential(*parts)
        self.fc = nn.Sequential(nn.Conv3d(i, classes, 1))

    def stages(self, x):
        for ours, part in zip(INCEPTION_TRUNK, self.base, strict=True):
            x = part(x)
            yield ours, x
        x = F.avg_pool3d(x, (2, *x.shape[3:]), 1)
        yield "avg_pool", x
        yield "logits", self.fc(x).mean((2, 3, 4))
