"""Files of mmaction2, GluonCV, VMZ, video-nonlocal-net and EchoNet, written with their own names.

The networks of `zoo_networks` and `zoo_factorized` are narrow. That a file is read at all shows
that every name and every shape is right; the logits show that the network computes the same.
"""

from functools import partial

import jax
import numpy as np
import pytest

from jaxvideo import create_model
from jaxvideo.pretrained import read_weights
from jaxvideo.types import CheckpointError
from jaxvideo.weights import files

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from tests.marks import some  # noqa: E402
from tests.models import ports  # noqa: E402
from tests.models.test_ports import clip_of, error, to_torch  # noqa: E402
from tests.models.test_slowfast import hub  # noqa: E402, F401  (a fixture)
from tests.weights import caffemodels  # noqa: E402
from tests.weights import zoo_networks as zoo  # noqa: E402
from tests.weights.zoo_cases import CASES, caffe2  # noqa: E402

pytestmark = pytest.mark.torch

SMALL = {"width": 1 / 8}


def read(case, path):
    """Writes the file of a case; returns its network, our weights of it, and a clip."""
    source, name, arguments, shape, build, wrap = CASES[case]
    network = ports.randomize(build())
    if "dot product" in case:  # affinities are not normalized, so that they grow with the network
        for theirs, tensor in network.named_parameters():
            if "theta" in theirs or "phi" in theirs:
                tensor.data *= 0.01
    if wrap is caffe2:
        zoo.write_caffe2(path, network)
    else:
        torch.save(wrap(network.state_dict()), path)
    weights = read_weights(name, path, source, **{**SMALL, **arguments})
    return network, weights, clip_of(shape)


@pytest.mark.parametrize("case", some(CASES, ["mmaction2 SlowFast", "vmz-caffe2 ip-CSN"]))
def test_names_and_shapes(tmp_path, case):
    network, weights, _ = read(case, tmp_path / "weights.pkl")
    counted = sum(p.numel() for p in network.parameters())
    ours = sum(p.size for p in jax.tree.leaves(weights.variables["params"]))
    if "non_local_pool" in weights.model and case.startswith("mmaction2"):
        counted += 2 * 512 // 8 + 3 * 1024 // 8  # biases that are zero there
    assert ours == counted
    assert weights.model["num_classes"] == (1 if case == "echonet" else 5)


def test_r2plus1d_of_pytorchvideo(hub, tmp_path):  # noqa: F811
    """The softmaxes of the positions are averaged."""
    from pytorchvideo.models.r2plus1d import create_r2plus1d

    network = create_r2plus1d(
        model_num_class=5, stem_dim_out=8, dropout_rate=0.5, head_pool_kernel_size=(2, 1, 1)
    )
    path, clip = tmp_path / "R2PLUS1D_16x4_R50.pyth", clip_of((1, 8, 64, 64, 3))
    network = ports.randomize(network)
    network.blocks[-1].proj.weight.data *= 1e-3  # so that the softmaxes are not 0 and 1
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"model_state": state, "optimizer_state": {}, "epoch": 196}, path)
    weights = read_weights("r2plus1d_r50", path, "pytorchvideo", pool=1, **SMALL)
    model = create_model(**weights.model)
    logits, ends = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
    with torch.inference_mode():
        expected = network(to_torch(clip)).numpy()
    assert ends["pre_logits"].shape == (1, 1, 2, 2, 256)
    assert 0.05 < expected.max() < 0.95
    assert error(jax.nn.softmax(logits), expected) < 1e-4


class Script(ports.I3DNet):
    def forward(self, x):
        *_, (_, logits) = self.stages(x)
        return logits


@pytest.mark.filterwarnings("ignore")  # tracing warns, and is deprecated
def test_i3d_as_torchscript(tmp_path):
    """The names of hassony2's port, in a file of `torch.jit.save`."""
    network = ports.randomize(Script(True, width=1 / 8))
    clip = to_torch(clip_of((1, 9, 33, 33, 3)))
    torch.jit.trace(network, clip, check_trace=False).save(tmp_path / "i3d_torchscript.pt")
    torch.save(network.state_dict(), tmp_path / "i3d.pth")
    script, plain = (
        read_weights("i3d_rgb", tmp_path / name, "kinetics-i3d-pytorch", **SMALL)
        for name in ("i3d_torchscript.pt", "i3d.pth")
    )
    jax.tree.map(np.testing.assert_array_equal, script.variables, plain.variables)
    assert script.model == plain.model


@pytest.mark.parametrize("old", [False, True])
def test_caffemodel(tmp_path, old):
    """TSN's files: a protocol buffer with the layers of its prototxt."""
    network = ports.randomize(caffemodels.TSN())
    path = tmp_path / "tsn_rgb_reference_bn_inception.caffemodel.v5"
    caffemodels.write(path, network.blobs(), old)
    weights = read_weights("tsn_rgb", path, "tsn-caffe", **SMALL)
    clip = clip_of((1, 3, 64, 64, 3))
    with torch.inference_mode():
        expected = network(torch.from_numpy(clip.transpose(0, 1, 4, 2, 3).copy())).numpy()
    if not old:
        model = create_model(**weights.model)
        logits, _ = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
        assert error(logits, expected) < 1e-4
    content = path.read_bytes()
    for damaged in (content[:-7], b"\x0b" + content, b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"caffemodel\.v5 is not a model of Caffe, or is"):
            files.read_arrays(path)


LOGITS = ("gluoncv TSN", "gluoncv R(2+1)D-18")


@pytest.mark.parametrize("case", some(CASES, LOGITS))
def test_logits_of_the_reference(tmp_path, case):
    network, weights, clip = read(case, tmp_path / "weights.pkl")
    with torch.inference_mode():
        expected = network(to_torch(clip)).numpy()
    model = create_model(**weights.model)
    logits, _ = jax.jit(partial(model.apply, train=False))(weights.variables, clip)
    assert error(logits, expected) < 1e-4
