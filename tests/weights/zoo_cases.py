"""Files of other libraries with their own names: the cases of `test_zoo_files`."""

from functools import partial

from tests.weights import zoo_factorized as factorized
from tests.weights import zoo_networks as zoo
from tests.weights.zoo_networks import R50, R152

CLIP = (1, 4, 64, 96, 3)
FACTORIZED = (1, 8, 40, 56, 3)


def openmmlab(state):
    """As mmengine writes: the training state beside the weights."""
    return {"meta": {"epoch": 7}, "state_dict": state, "optimizer": {"state": {}}}


def parallel(state):
    """As EchoNet's trainer writes, with torch's DataParallel."""
    return {"epoch": 44, "state_dict": {f"module.{n}": t for n, t in state.items()}, "loss": 1.0}


def bare(state):
    return state


def lateral(path, convolution, norm):
    """Names of the lateral connections; the first one follows the stem."""
    return lambda stage: tuple(
        path.format(["conv1", "layer1", "layer2", "layer3"][stage]) + end
        for end in (convolution, norm)
    )


def mmaction2_slowfast(**how):
    return zoo.slowfast(
        partial(zoo.mmaction2, path="slow_path."),
        partial(zoo.mmaction2, path="fast_path."),
        lateral("backbone.slow_path.{}_lateral", ".conv", ".bn"),
        "cls_head.fc_cls",
        fast_first=True,
        **how,
    )


def gluoncv_slowfast(**how):
    def pathway(path):
        def place(part, stage=0, block=0):
            if part == "stem":
                return f"{path}_conv1", f"{path}_bn1"
            names = zoo.gluoncv(part, stage, block)
            return tuple(n.replace(f"layer{stage + 1}", f"{path}_res{stage + 2}") for n in names)

        return place

    def names(stage):
        where = f"lateral_{['p1', 'res2', 'res3', 'res4'][stage]}"
        return f"{where}.0", f"{where}.1"

    return zoo.slowfast(pathway("slow"), pathway("fast"), names, "fc", **how)


I3D = {"taps": zoo.I3D, "stem": 5, "strides": (2, 2), "time_pool": 2}
FIVE = {1: (1, 3), 2: (1, 3, 5)}


def i3d(place, names=None, blocks=FIVE, form=I3D, **how):
    """I3D with strides in time in its stem, and non-local blocks if they have names."""
    if names is None:
        return zoo.resnet(place, **form)
    found = []

    def extra(i, stage, block):
        if block not in blocks.get(stage, ()):
            return None
        found.append((i, stage, block))
        return lambda x: added[stage, block](x)

    net = zoo.resnet(place, extra=extra, **form)
    added = {
        (stage, block): zoo.non_local(net, names(stage, block), i, **how)
        for i, stage, block in found
    }
    return net


def mmaction2_non_local(stage, block):
    where = f"backbone.layer{stage + 1}.{block}.non_local_block."
    parts = ("theta.conv", "phi.0.conv", "g.0.conv", "conv_out.conv", "conv_out.bn")
    return [where + part for part in parts]


def gluoncv_non_local(stage, block):
    where = f"res_layers.{stage}.{block}.nonlocal_block."
    return [where + part for part in ("theta", "phi", "g", "W", "bn")]


def twice(state):
    """GluonCV's modules have second names."""
    more = {n.replace("fc.", "head.1."): t for n, t in state.items() if n.startswith("fc.")}
    for name, tensor in state.items():
        for old, new in (("nonlocal_block.W.", "W_bn.0."), ("nonlocal_block.bn.", "W_bn.1.")):
            if old in name:
                more[name.replace(old, f"nonlocal_block.{new}")] = tensor
    return {**state, **more}


def caffe2(state):
    """Marks cases whose file is a pickle of Caffe2, which `zoo.write_caffe2` writes."""
    raise NotImplementedError


def ip_caffe2(part, stage=0, block=0):
    return zoo.vmz_caffe2(R152)("3 of ip" if part == "3" else part, stage, block)


NL = {"pool": True, "scaled": False, "out_bias": False}
# Source, name and further arguments of our network; the clip; the network; the file.
CASES = {
    "mmaction2 TSN": (
        "mmaction2",
        "tsn_resnet50_rgb",
        {},
        (1, 3, 64, 96, 3),
        partial(zoo.tsn, zoo.mmaction2),
        lambda s: openmmlab(zoo.squeezed(s)),
    ),
    "mmaction2 TSN flow": (
        "mmaction2",
        "tsn_resnet50_flow",
        {},
        (1, 10, 64, 96, 2),
        partial(zoo.tsn, zoo.mmaction2, snippet=5, channels=2),
        lambda s: openmmlab(zoo.squeezed(s)),
    ),
    "mmaction2 SlowOnly": (
        "mmaction2",
        "slow_r50",
        {},
        CLIP,
        partial(zoo.resnet, zoo.mmaction2),
        openmmlab,
    ),
    "mmaction2 SlowFast": (
        "mmaction2",
        "slowfast_r50",
        {"width": 1.0},
        (1, 8, 64, 64, 3),
        partial(mmaction2_slowfast, norm=False),
        openmmlab,
    ),
    "mmaction2 SlowFast with lateral BN": (
        "mmaction2",
        "slowfast_4x16_r50",
        {"width": 1.0},
        (1, 8, 64, 64, 3),
        partial(mmaction2_slowfast, alpha=8, taps=5),
        openmmlab,
    ),
    "mmaction2 I3D": (
        "mmaction2",
        "i3d_r50",
        {},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.mmaction2),
        openmmlab,
    ),
    "mmaction2 I3D, embedded Gaussian": (
        "mmaction2",
        "i3d_r50_nl",
        {},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.mmaction2, mmaction2_non_local, **NL),
        openmmlab,
    ),
    "mmaction2 I3D, dot product": (
        "mmaction2",
        "i3d_r50_nl",
        {"non_local_kind": "dot_product"},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.mmaction2, mmaction2_non_local, kind="dot_product", **NL),
        openmmlab,
    ),
    "mmaction2 I3D, Gaussian": (
        "mmaction2",
        "i3d_r50_nl",
        {"non_local_kind": "gaussian"},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.mmaction2, mmaction2_non_local, kind="gaussian", **NL),
        openmmlab,
    ),
    "mmaction2 SlowOnly, embedded Gaussian": (
        "mmaction2",
        "slow_r50_nl",
        {},
        CLIP,
        partial(
            i3d,
            zoo.mmaction2,
            mmaction2_non_local,
            {1: (0, 2), 2: (0, 2, 4)},
            {},
            **{**NL, "scaled": True},
        ),
        openmmlab,
    ),
    "mmaction2 C2D without pool": (
        "mmaction2",
        "tsn_resnet50_rgb",
        {},
        (1, 8, 64, 64, 3),
        partial(zoo.resnet, zoo.mmaction2, zoo.FLAT),
        lambda s: openmmlab(zoo.squeezed(s)),
    ),
    "mmaction2 C2D": (
        "mmaction2",
        "c2d_r50",
        {},
        CLIP,
        partial(zoo.resnet, zoo.mmaction2, zoo.FLAT, time_pool=2, padding=0),
        lambda s: openmmlab(zoo.squeezed(s)),
    ),
    "mmaction2 R(2+1)D": (
        "mmaction2",
        "r2plus1d_34_mmaction2",
        {},
        (1, 8, 64, 96, 3),
        partial(
            factorized.r2plus1d,
            factorized.mmaction2,
            factorized.R34,
            stem_mid=83,
            pool=True,
            eps=1e-3,
            inner_eps=1e-5,
            factorized_down=True,
        ),
        openmmlab,
    ),
    "mmaction2 ir-CSN": (
        "mmaction2",
        "csn_r50",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, zoo.mmaction2_csn, R50),
        openmmlab,
    ),
    "mmaction2 ip-CSN": (
        "mmaction2",
        "ip_csn_r152",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, zoo.mmaction2, R152, preserved=True),
        openmmlab,
    ),
    "mmaction2 X3D": (
        "mmaction2",
        "x3d_m",
        {"width": 1.0},
        CLIP,
        factorized.x3d,
        openmmlab,
    ),
    "gluoncv TSN": (
        "gluoncv",
        "tsn_resnet50_rgb",
        {},
        (1, 3, 64, 96, 3),
        partial(zoo.tsn, zoo.gluoncv),
        zoo.squeezed,
    ),
    "gluoncv Slow": ("gluoncv", "slow_r50", {}, CLIP, partial(zoo.resnet, zoo.gluoncv), bare),
    "gluoncv SlowFast": (
        "gluoncv",
        "slowfast_r50",
        {"width": 1.0},
        (1, 8, 64, 64, 3),
        gluoncv_slowfast,
        bare,
    ),
    "gluoncv I3D": (
        "gluoncv",
        "i3d_r50",
        {},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.gluoncv_i3d),
        twice,
    ),
    "gluoncv I3D, non-local": (
        "gluoncv",
        "i3d_r50_nl",
        {},
        (1, 8, 64, 96, 3),
        partial(i3d, zoo.gluoncv_i3d, gluoncv_non_local, pool=False, scaled=True),
        twice,
    ),
    "gluoncv I3D, ten non-local blocks": (
        "gluoncv",
        "i3d_r50_nl",
        {"non_local": [["res3", [0, 1, 2, 3]], ["res4", [0, 1, 2, 3, 4, 5]]]},
        (1, 8, 64, 96, 3),
        partial(
            i3d,
            zoo.gluoncv_i3d,
            gluoncv_non_local,
            {1: range(4), 2: range(6)},
            pool=False,
            scaled=True,
        ),
        twice,
    ),
    "gluoncv R(2+1)D-18": (
        "gluoncv",
        "r2plus1d_18",
        {},
        FACTORIZED,
        partial(factorized.r2plus1d, factorized.gluoncv_v1, factorized.R18, per_block=True),
        bare,
    ),
    "gluoncv R(2+1)D-50": (
        "gluoncv",
        "r2plus1d_50",
        {},
        FACTORIZED,
        partial(factorized.r2plus1d, factorized.gluoncv_v1, R50, deep=True, per_block=True),
        bare,
    ),
    "gluoncv R(2+1)D-152": (
        "gluoncv",
        "r2plus1d_152",
        {},
        FACTORIZED,
        partial(factorized.r2plus1d, factorized.gluoncv_v2, R152, deep=True, eps=1e-3),
        bare,
    ),
    "gluoncv ir-CSN": (
        "gluoncv",
        "csn_r152",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, zoo.gluoncv_ircsn, R152),
        bare,
    ),
    "vmz ir-CSN": ("vmz", "csn_r152", {}, (1, 8, 64, 96, 3), partial(zoo.csn, zoo.vmz, R152), bare),
    "vmz ip-CSN": (
        "vmz",
        "ip_csn_r152",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, zoo.vmz, R152, preserved=True),
        bare,
    ),
    "vmz R(2+1)D-152": (
        "vmz",
        "r2plus1d_152",
        {},
        FACTORIZED,
        partial(factorized.r2plus1d, factorized.vmz, R152, deep=True, eps=1e-3),
        bare,
    ),
    "vmz-caffe2 ir-CSN": (
        "vmz-caffe2",
        "csn_r50",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, zoo.vmz_caffe2(R50), R50),
        caffe2,
    ),
    "vmz-caffe2 ip-CSN": (
        "vmz-caffe2",
        "ip_csn_r152",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.csn, ip_caffe2, R152, preserved=True),
        caffe2,
    ),
    "vmz-caffe2 R(2+1)D-152": (
        "vmz-caffe2",
        "r2plus1d_152",
        {},
        FACTORIZED,
        partial(factorized.r2plus1d, factorized.vmz_caffe2(R152), R152, deep=True, eps=1e-3),
        caffe2,
    ),
    "vmz-caffe2 C3D": (
        "vmz-caffe2",
        "c3d_bn_vmz",
        {},
        (1, 16, 112, 112, 3),
        factorized.c3d,
        caffe2,
    ),
    "video-nonlocal-net I3D": (
        "video-nonlocal-net",
        "i3d_r50",
        {},
        (1, 8, 64, 96, 3),
        partial(zoo.resnet, zoo.nonlocal_net, zoo.I3D, stem=5, time_pool=2, padding=0),
        caffe2,
    ),
    "video-nonlocal-net C2D": (
        "video-nonlocal-net",
        "c2d_r50",
        {},
        CLIP,
        partial(zoo.resnet, zoo.nonlocal_net, zoo.FLAT, time_pool=2, padding=0),
        caffe2,
    ),
    "echonet": ("echonet", "r2plus1d_18", {}, FACTORIZED, factorized.echonet, parallel),
}
