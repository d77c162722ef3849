"""ResNets of other libraries in torch, with their names: written from their descriptions.

A network is a `Net`. Modules are registered under the dotted names of the library, and `forward` is
a sequence of functions, so that one description serves libraries with different names. `PLACES`
has the names of a library: `(part, stage, block)` to those of a convolution and its BatchNorm.
"""

import itertools
import pickle

import torch
import torch.nn.functional as F
from torch import nn

R50, R152 = (3, 4, 6, 3), (3, 8, 36, 3)


class Net(nn.Module):
    """Modules by dotted names; `run` computes the logits of a clip `[N, C, T, H, W]`."""

    def __init__(self):
        super().__init__()
        self.run = None

    def put(self, name, module):
        *parents, leaf = name.split(".")
        node = self
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node._modules[parent]
        node.add_module(leaf, module)
        return module

    def unit(self, names, i, o, kernel, stride=1, groups=1, eps=1e-5, relu=True, bias=False):
        """A convolution, a BatchNorm unless its name is None, and ReLU."""
        kernel = (kernel,) * 3 if isinstance(kernel, int) else kernel
        padding = tuple(k // 2 for k in kernel)
        layer = nn.Conv3d(i, o, kernel, stride, padding, groups=groups, bias=bias)
        conv, norm = self.put(names[0], layer), None
        if names[1]:
            norm = self.put(names[1], nn.BatchNorm3d(o, eps=eps))

        def run(x):
            x = conv(x) if norm is None else norm(conv(x))
            return x.relu() if relu else x

        return run

    def forward(self, x):
        return self.run(x)


# --- Names --------------------------------------------------------------------------------


def mmaction2(part, stage=0, block=0, path=""):
    backbone = f"backbone.{path}"
    if part == "stem":
        return f"{backbone}conv1.conv", f"{backbone}conv1.bn"
    if part == "fc":
        return "cls_head.fc_cls"
    where = f"{backbone}layer{stage + 1}.{block}."
    place = {"down": "downsample", "2a": "conv2.0", "2b": "conv2.1"}.get(part, f"conv{part}")
    return f"{where}{place}.conv", f"{where}{place}.bn"


def mmaction2_csn(part, stage=0, block=0):
    return mmaction2("2a" if part == "2" else part, stage, block)


def gluoncv(part, stage=0, block=0):
    if part in ("stem", "fc"):
        return {"stem": ("conv1", "bn1"), "fc": "fc"}[part]
    where = f"layer{stage + 1}.{block}."
    if part == "down":
        return f"{where}downsample.0", f"{where}downsample.1"
    return f"{where}conv{part}", f"{where}bn{part}"


def gluoncv_i3d(part, stage=0, block=0):
    if part == "stem":
        return "first_stage.0", "first_stage.1"
    if part == "fc":
        return "fc"
    return tuple(
        name.replace(f"layer{stage + 1}", f"res_layers.{stage}")
        for name in gluoncv(part, stage, block)
    )


def gluoncv_ircsn(part, stage=0, block=0):
    if part == "fc":
        return "out_fc"
    names = gluoncv({"2": "3", "3": "4"}.get(part, part), stage, block)
    return tuple(name.replace("downsample", "down_sample") for name in names)


def vmz(part, stage=0, block=0):
    if part in ("stem", "fc"):
        return {"stem": ("stem.0", "stem.1"), "fc": "fc"}[part]
    where = f"layer{stage + 1}.{block}."
    return {
        "down": (f"{where}downsample.0", f"{where}downsample.1"),
        "1": (f"{where}conv1.0", f"{where}conv1.1"),
        "2": (f"{where}conv2.0", f"{where}conv2.1"),
        "2a": (f"{where}conv2.0.0", f"{where}conv2.0.1"),
        "2b": (f"{where}conv2.0.2", f"{where}conv2.1"),
        "3": (f"{where}conv3.0", f"{where}conv3.1"),
    }[part]


def vmz_caffe2(blocks):
    """Blocks are numbered across stages. A depthwise convolution of ir-CSN counts twice."""

    def place(part, stage=0, block=0):
        if part in ("stem", "fc"):
            return {"stem": ("conv1", "conv1_spatbn_relu"), "fc": "last_out_L5"}[part]
        i = sum(blocks[:stage]) + block
        down = f"shortcut_projection_{i}"
        conv, bn = f"comp_{i}_conv_", f"comp_{i}_spatbn_"
        return {
            "down": (down, f"{down}_spatbn"),
            "1": (f"{conv}1", f"{bn}1"),
            "2": (f"{conv}3", f"{bn}3"),
            "3": (f"{conv}4", f"{bn}4"),
            "2a": (f"{conv}2_middle", f"{bn}2_middle"),
            "2b": (f"{conv}2", f"{bn}2"),
            "3 of ip": (f"{conv}3", f"{bn}3"),
        }[part]

    return place


def nonlocal_net(part, stage=0, block=0):
    if part in ("stem", "fc"):
        return {"stem": ("conv1", "res_conv1_bn"), "fc": "pred"}[part]
    where = f"res{stage + 2}_{block}_branch"
    name = {"down": "1", "1": "2a", "2": "2b", "3": "2c"}[part]
    return f"{where}{name}", f"{where}{name}_bn"


# --- Networks -----------------------------------------------------------------------------

SLOW = [(1,) * 3, (1,) * 4, (3,) * 6, (3,) * 3]
I3D = [(3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1)]
FLAT = [(1,) * 3, (1,) * 4, (1,) * 6, (1,) * 3]


def bottleneck(net, place, i, width, taps, stride):
    """t x 1 x 1, 1 x 3 x 3 with the stride, 1 x 1 x 1."""
    down = None
    if stride > 1 or i != 4 * width:
        down = net.unit(place("down"), i, 4 * width, 1, (1, stride, stride), relu=False)
    units = (
        net.unit(place("1"), i, width, (taps, 1, 1)),
        net.unit(place("2"), width, width, (1, 3, 3), (1, stride, stride)),
        net.unit(place("3"), width, 4 * width, 1, relu=False),
    )

    def run(x):
        y = x
        for unit in units:
            y = unit(y)
        return (y + (x if down is None else down(x))).relu()

    return run


def trunk(net, place, taps, width, stem, channels=3, strides=(1, 1), padding=1, extra=None):
    """Steps of a ResNet of bottlenecks: a list per stage, the first one being the stem.

    `stem` is the taps of conv1, `strides` are those of conv1 and its pool in time. `extra(i, stage,
    block)` returns a step after a block or None.
    """
    conv1 = net.unit(place("stem"), channels, width, (stem, 7, 7), (strides[0], 2, 2))
    pool = (1, 3, 3), (strides[1], 2, 2), (0, padding, padding)
    stages, i = [[conv1, lambda x: F.max_pool3d(x, *pool)]], width
    for stage, kernels in enumerate(taps):
        steps = []
        for block, kernel in enumerate(kernels):

            def at(part, stage=stage, block=block):
                return place(part, stage, block)

            stride = 2 if stage and not block else 1
            steps.append(bottleneck(net, at, i, width * 2**stage, kernel, stride))
            i = 4 * width * 2**stage
            steps += [step] if extra and (step := extra(i, stage, block)) else []
        stages.append(steps)
    return stages


def through(steps, x):
    for step in steps:
        x = step(x)
    return x


def resnet(place, taps=SLOW, width=8, stem=1, time_pool=1, classes=5, **form):
    """Slow, C2D, I3D and TSN; the logits of the mean of the whole map."""
    net = Net()
    stages = trunk(net, place, taps, width, stem, **form)
    fc = net.put(place("fc"), nn.Linear(32 * width, classes))
    stages[1].append(lambda x: F.max_pool3d(x, (time_pool, 1, 1)))
    net.run = lambda x: fc(through(itertools.chain(*stages), x).mean((2, 3, 4)))
    return net


def tsn(place, snippet=1, channels=3, **form):
    """The mean of the scores of snippets, whose frames are stacked into the channels."""
    net = resnet(place, FLAT, channels=snippet * channels, **form)
    one = net.run

    def run(x):
        n, c, t, h, w = x.shape
        x = x.reshape(n, c, t // snippet, snippet, h, w).permute(0, 2, 3, 1, 4, 5)
        return one(x.reshape(-1, snippet * c, 1, h, w)).reshape(n, t // snippet, -1).mean(1)

    net.run = run
    return net


def slowfast(slow, fast, lateral, fc, width=64, alpha=4, taps=7, norm=True, fast_first=False):
    """`slow` and `fast` are places, `lateral(stage)` the names of a lateral connection.

    Slow frames are every alpha-th. The Slow pathway has 8 times the channels of the Fast one.
    """
    net, small = Net(), width // 8
    fast_stages = trunk(net, fast, [(3,) * n for n in R50], small, 5)
    joins, added = [], [small, 4 * small, 8 * small, 16 * small]
    for stage, i in enumerate(added):
        names = lateral(stage)
        kernel = (taps, 1, 1)
        unit = net.unit(names if norm else (names[0], None), i, 2 * i, kernel, (alpha, 1, 1))
        if not norm:
            unit = net.get_submodule(names[0])
        joins.append(unit)
    # The inputs of a stage of the Slow pathway have the lateral channels, too.
    slow_stages, i = [], width
    conv1 = net.unit(slow("stem"), 3, width, (1, 7, 7), (1, 2, 2))
    slow_stages.append([conv1, lambda x: F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))])
    for stage, kernels in enumerate(SLOW):
        steps = []
        for block, kernel in enumerate(kernels):

            def at(part, stage=stage, block=block):
                return slow(part, stage, block)

            inputs = i + (0 if block else 2 * added[stage])
            stride = 2 if stage and not block else 1
            steps.append(bottleneck(net, at, inputs, width * 2**stage, kernel, stride))
            i = 4 * width * 2**stage
        slow_stages.append(steps)
    head = net.put(fc, nn.Linear(32 * (width + small), 5))

    def run(x):
        x, y = x[:, :, ::alpha], x
        for stage in range(5):
            x, y = through(slow_stages[stage], x), through(fast_stages[stage], y)
            if stage < 4:
                x = torch.cat((x, joins[stage](y)), 1)
        x, y = x.mean((2, 3, 4)), y.mean((2, 3, 4))
        return head(torch.cat((y, x) if fast_first else (x, y), 1))

    net.run = run
    return net


def csn(place, blocks, preserved=False, width=8, classes=5):
    """CSN with epsilon 1e-3; the logits of the mean of the whole map."""
    net, steps, i = Net(), [], width
    how = {"eps": 1e-3}
    steps.append(net.unit(place("stem"), 3, width, (3, 7, 7), (1, 2, 2), **how))
    steps.append(lambda x: F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)))
    for stage, count in enumerate(blocks):
        for block in range(count):
            inner, stride = width * 2**stage, 2 if stage and not block else 1

            def at(part, stage=stage, block=block):
                return place(part, stage, block)

            down = None
            if not block:
                down = net.unit(at("down"), i, 4 * inner, 1, stride, relu=False, **how)
            units = [net.unit(at("1"), i, inner, 1, **how)]
            if preserved:
                units.append(net.unit(at("2a"), inner, inner, 1, relu=False, **how))
            depthwise = at("2b" if preserved else "2")
            units.append(net.unit(depthwise, inner, inner, 3, stride, groups=inner, **how))
            units.append(net.unit(at("3"), inner, 4 * inner, 1, relu=False, **how))
            i = 4 * inner

            def run(x, units=tuple(units), down=down):
                return (through(units, x) + (x if down is None else down(x))).relu()

            steps.append(run)
    fc = net.put(place("fc"), nn.Linear(i, classes))
    net.run = lambda x: fc(through(steps, x).mean((2, 3, 4)))
    return net


# --- Non-local blocks ---------------------------------------------------------------------


def non_local(net, names, i, pool, scaled, out_bias=True, kind="softmax"):
    """A non-local block; keys and values are pooled after their convolutions if `pool`.

    `names` are those of theta, phi, g, out and the BatchNorm. A Gaussian has neither theta nor phi.
    """
    inner = i // 2
    theta, phi, g = (
        (lambda x: x)
        if kind == "gaussian" and name != names[2]
        else net.unit((name, None), i, inner, 1, relu=False, bias=True)
        for name in names[:3]
    )
    out = net.unit(names[3:], inner, i, 1, relu=False, bias=out_bias)

    def flat(x):
        return x.flatten(2)

    def run(x):
        keys, values = phi(x), g(x)
        if pool:
            keys, values = F.max_pool3d(keys, (1, 2, 2)), F.max_pool3d(values, (1, 2, 2))
        affinity = flat(theta(x)).transpose(1, 2) @ flat(keys)
        if kind == "dot_product":
            affinity = affinity / affinity.shape[-1]
        else:
            affinity = (affinity * inner**-0.5 if scaled else affinity).softmax(-1)
        y = (affinity @ flat(values).transpose(1, 2)).transpose(1, 2)
        return x + out(y.reshape(len(x), inner, *x.shape[2:]))

    return run


# --- Files --------------------------------------------------------------------------------


def squeezed(state):
    """2-D kernels, as in files of 2-D networks."""
    return {n: t[:, :, 0] if t.ndim == 5 and t.shape[2] == 1 else t for n, t in state.items()}


def write_caffe2(path, network):
    """A pickle of Python 2: `{"blobs": ...}` with names such as `conv1_w` and `bn_riv`."""
    blobs = {"lr": 0.1, "model_iter": 7}
    for name, module in network.named_modules():
        for leaf, tensor in [*module.named_parameters(recurse=False), *module.named_buffers()]:
            norm = isinstance(module, nn.BatchNorm3d)
            ending = {
                "weight": "s" if norm else "w",
                "bias": "b",
                "running_mean": "rm",
                "running_var": "riv",
            }.get(leaf)
            if ending and isinstance(module, nn.Conv3d | nn.Linear | nn.BatchNorm3d):
                blobs[f"{name}_{ending}"] = tensor.detach().numpy()
                blobs[f"{name}_{ending}_momentum"] = tensor.detach().numpy() * 0
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
