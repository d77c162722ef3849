"""Writes Caffe's model files, and TSN's BN-Inception in torch with the layer names of its prototxt.

The writer follows the wire format of protocol buffers.
"""

import struct

import torch
import torch.nn.functional as F
from torch import nn

# The layers of a row: 1x1; 3x3 after its reduction; double 3x3 after its reduction; the kind of
# the pool and the channels of its projection.
ROWS = {
    "3a": (64, 64, 64, 64, 96, "ave", 32),
    "3b": (64, 64, 96, 64, 96, "ave", 64),
    "3c": (0, 128, 160, 64, 96, "max", 0),
    "4a": (224, 64, 96, 96, 128, "ave", 128),
    "4b": (192, 96, 128, 96, 128, "ave", 128),
    "4c": (160, 128, 160, 128, 160, "ave", 128),
    "4d": (96, 128, 192, 160, 192, "ave", 128),
    "4e": (0, 128, 192, 192, 256, "max", 0),
    "5a": (352, 192, 320, 160, 224, "ave", 128),
    "5b": (352, 192, 320, 192, 224, "max", 128),
}


class TSN(nn.Module):
    """TSN of `segments` snippets; `run` is the mean of their scores."""

    def __init__(self, channels=3, width=1 / 8, classes=5):
        super().__init__()
        self.layers, self.steps = {}, []
        self.width = width
        i = self.unit(self.steps, "conv1/7x7_s2", channels, 64, 7, 2)
        self.steps.append(self.pool)
        i = self.unit(self.steps, "conv2/3x3_reduce", i, 64, 1)
        i = self.unit(self.steps, "conv2/3x3", i, 192, 3)
        self.steps.append(self.pool)
        for row in ROWS:
            i = self.block(row, i)
        self.fc = nn.Linear(i, classes)
        self.layers["fc-action"] = self.fc
        self.parts = nn.ModuleList(self.layers.values())

    @staticmethod
    def pool(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def unit(self, steps, name, i, features, kernel, stride=1):
        o = round(features * self.width)
        conv, norm = nn.Conv2d(i, o, kernel, stride, kernel // 2), nn.BatchNorm2d(o)
        self.layers |= {name: conv, f"{name}_bn": norm}
        steps.append(lambda x: norm(conv(x)).relu())
        return o

    def block(self, row, i):
        one, r3, c3, rd, cd, kind, projection = ROWS[row]
        where, stride, branches, total = f"inception_{row}/", 1 if one else 2, [], 0
        if one:
            branches.append([])
            total += self.unit(branches[-1], f"{where}1x1", i, one, 1)
        branches.append([])
        inner = self.unit(branches[-1], f"{where}3x3_reduce", i, r3, 1)
        total += self.unit(branches[-1], f"{where}3x3", inner, c3, 3, stride)
        branches.append([])
        inner = self.unit(branches[-1], f"{where}double_3x3_reduce", i, rd, 1)
        inner = self.unit(branches[-1], f"{where}double_3x3_1", inner, cd, 3)
        total += self.unit(branches[-1], f"{where}double_3x3_2", inner, cd, 3, stride)
        if kind == "ave":
            branches.append([lambda x: F.avg_pool2d(x, 3, 1, 1)])
        elif stride == 2:
            branches.append([self.pool])
        else:
            branches.append([lambda x: F.max_pool2d(x, 3, 1, 1)])
        if projection:
            total += self.unit(branches[-1], f"{where}pool_proj", i, projection, 1)
        else:
            total += i

        def run(x):
            outputs = []
            for branch in branches:
                y = x
                for step in branch:
                    y = step(y)
                outputs.append(y)
            return torch.cat(outputs, 1)

        self.steps.append(run)
        return total

    def forward(self, x):
        """`[N, K, C, H, W]` to `[N, classes]`."""
        n, k = x.shape[:2]
        x = x.flatten(0, 1)
        for step in self.steps:
            x = step(x)
        return self.fc(x.mean((2, 3))).reshape(n, k, -1).mean(1)

    def blobs(self):
        """Layer names and their arrays; BatchNorm has slope, bias, mean and variance."""
        for name, layer in self.layers.items():
            arrays = [layer.weight, layer.bias]
            if isinstance(layer, nn.BatchNorm2d):
                arrays = [t[None] for t in (*arrays, layer.running_mean, layer.running_var)]
            yield name, [array.detach().numpy() for array in arrays]


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def field(number, content):
    if isinstance(content, int):
        return varint(number * 8) + varint(content)
    return varint(number * 8 + 2) + varint(len(content)) + content


def blob(array, old):
    data = field(5, array.astype("<f4").tobytes())
    if old:
        sizes = (1,) * (4 - array.ndim) + array.shape
        return b"".join(field(n, size) for n, size in enumerate(sizes, 1)) + data
    return field(7, field(1, b"".join(map(varint, array.shape)))) + data


def write(path, layers, old=False):
    """Writes layers, with further fields as Caffe has them; `old` is the format before 2014."""
    content = field(1, b"BN-Inception") + field(3, b"data") + field(5, 1)
    for name, arrays in layers:
        title, number = (4, 6) if old else (1, 7)
        parts = [field(title, name.encode()), field(2, b"Convolution")]
        parts.append(varint(10 * 8 + 5) + struct.pack("<f", 0.5))  # a field of four bytes
        parts += [field(number, blob(array, old)) for array in arrays]
        content += field(2 if old else 100, b"".join(parts))
    path.write_bytes(content)
