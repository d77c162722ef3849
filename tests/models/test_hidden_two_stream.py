"""MotionNet, its losses against loops over pixels, and the hidden temporal stream."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvideo.layers.parameters import shapes_only
from jaxvideo.models import hidden_two_stream as hidden
from jaxvideo.models.hidden_two_stream import MOTIONNETS, HiddenTwoStream, MotionNet
from jaxvideo.types import ConfigError, Lowering

# DIRECT compiles fastest.
SMALL = {
    "encoder": ((8, 3, 1), (16, 3, 1), (16, 3, 1)),
    "decoder": (8,),
    "lowering": Lowering.DIRECT,
}


def shapes(model, clip_shape):
    """Shapes of parameters and endpoints, in order."""
    clip = jax.ShapeDtypeStruct(clip_shape, jnp.float32)
    with shapes_only():
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), clip)
    ends = {}

    def forward(variables, clip):
        output, endpoints = model.apply(variables, clip, train=False)
        ends.update({name: end.shape for name, end in endpoints.items()})
        return output

    output = jax.eval_shape(forward, variables, clip)
    assert set(variables) == {"params"}
    return variables["params"], output.shape, ends


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


# --- The networks ---------------------------------------------------------------------------


def test_motionnet():
    params, output, ends = shapes(MotionNet(), (1, 11, 224, 224, 3))
    assert size(params) == 42_319_860
    assert output == (1, 10, 112, 112, 2)
    flows = [ends[f"predict_flow{level}"] for level in (6, 5, 4, 3, 2)]
    assert flows == [(1, 10, side, side, 2) for side in (7, 14, 28, 56, 112)]
    assert ends["conv1_1"] == (1, 1, 224, 224, 64)
    assert ends["conv6_1"] == (1, 1, 7, 7, 1024)
    assert ends["smooth_conv2"] == (1, 1, 112, 112, 64)
    assert set(params) - set(ends) == {f"upsample_flow{level}" for level in (6, 5, 4, 3)}


def test_tiny_motionnet():
    params, output, ends = shapes(MotionNet(**MOTIONNETS["tiny_motionnet"]), (1, 11, 64, 64, 3))
    encoder = 33 * 49 * 64 + 64 * 25 * 128 + 128 * 9 * 256 + 256 * 9 * 128 + 64 + 128 + 256 + 128
    decoder = (128 * 16 + 404 * 9 + 1) * 128 + 128 + (128 * 16 + 212 * 9 + 1) * 64 + 64
    flow = (128 * 9 + 1) * 20 * 2 + (64 * 9 + 1) * 20 + (20 * 16 + 1) * 20 * 2
    assert size(params) == encoder + decoder + flow == 1_950_308
    assert output == (1, 10, 32, 32, 2)
    assert ends["predict_flow4"] == (1, 10, 8, 8, 2)


def test_stacked_temporal_stream():
    params, output, ends = shapes(HiddenTwoStream(), (1, 11, 224, 224, 3))
    assert size(params["motionnet"]) == 42_319_860
    assert size(params["temporal"]) == 134_684_133
    assert output == (1, 101)
    assert ends["motionnet/predict_flow2"] == (1, 10, 112, 112, 2)
    assert ends["temporal/conv1_1"] == (1, 1, 224, 224, 64)


def test_sizes_follow_the_encoder():
    _, output, ends = shapes(MotionNet(width=1 / 16), (2, 4, 48, 45, 3))
    rows, columns = [2, 3, 6, 12, 24], [2, 3, 6, 12, 23]
    assert [ends[f"predict_flow{level}"][2] for level in (6, 5, 4, 3, 2)] == rows
    assert [ends[f"predict_flow{level}"][3] for level in (6, 5, 4, 3, 2)] == columns
    assert output == (2, 3, 24, 23, 2)
    assert shapes(HiddenTwoStream(7, width=1 / 16), (2, 4, 48, 45, 3))[1] == (2, 7)


def test_one_frame_has_no_motion():
    with pytest.raises(ConfigError, match="clip has 1 frame; flow needs"):
        shapes(MotionNet(), (1, 1, 32, 32, 3))


def test_stored_flow():
    """-20 and 20 pixels are 0 and 255; larger motion is clipped."""
    flow = jnp.broadcast_to(jnp.array([20.0, -30.0]), (1, 1, 2, 3, 2))
    stored = hidden.as_stored(flow, 4, 6)
    np.testing.assert_allclose(stored[..., 0], 255, rtol=1e-5)
    np.testing.assert_allclose(stored[..., 1], 0, atol=1e-5)


@pytest.mark.torch
def test_stored_flow_is_enlarged_as_in_torch():
    torch = pytest.importorskip("torch")
    flow = np.random.default_rng(0).uniform(-9, 9, (1, 3, 5, 4, 2)).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.tensor(flow[0].transpose(0, 3, 1, 2).copy()), (10, 8), mode="bilinear"
    )
    expected = (large.numpy().transpose(0, 2, 3, 1) + 20) * 255 / 40
    np.testing.assert_allclose(hidden.as_stored(jnp.asarray(flow), 10, 8)[0], expected, rtol=1e-5)


# --- The losses, pixel by pixel -------------------------------------------------------------


def naive_warp(image, flow):
    h, w, _ = image.shape
    out = np.zeros(image.shape)
    for i, j in np.ndindex(h, w):
        x, y = j + flow[i, j, 0], i + flow[i, j, 1]
        for row, column in np.ndindex(h, w):
            out[i, j] += max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row)) * image[row, column]
    return out


def naive_downsample(image, height, width):
    h, w, c = image.shape
    sy, sx = (h - 1) / (height - 1), (w - 1) / (width - 1)
    out = np.zeros((height, width, c))
    for i, j in np.ndindex(height, width):
        total = 0
        for row, column in np.ndindex(h, w):
            weight = max(0, 1 - abs(row - i * sy) / sy) * max(0, 1 - abs(column - j * sx) / sx)
            out[i, j] += weight * image[row, column]
            total += weight
        out[i, j] /= total
    return out


def naive_penalty(x, alpha, beta):
    return ((beta * x) ** 2 + 1e-6) ** alpha


def naive_photometric(target, warped, border):
    h, w, c = target.shape
    return np.mean(
        [
            naive_penalty(target[i, j, k] - warped[i, j, k], 0.4, 255)
            for i in range(border, h - border)
            for j in range(border, w - border)
            for k in range(c)
        ]
    )


def naive_smoothness(flow, scale, border):
    h, w, _ = flow.shape
    total = 0
    for k in (0, 1):
        values = []
        for i in range(border, h - border):
            for j in range(border, w - border):
                down = flow[i + 1, j, k] - flow[i, j, k] if i + 1 < h else 0
                right = flow[i, j + 1, k] - flow[i, j, k] if j + 1 < w else 0
                values += [naive_penalty(down, 0.3, scale), naive_penalty(right, 0.3, scale)]
        total += np.mean(values)
    return total


def naive_ssim(target, warped):
    """Sum of 1 - SSIM over windows and channels."""
    h, w, c = target.shape
    distances = (np.mgrid[:8, :8] - 4.0) ** 2
    window = np.exp(-distances.sum(0) / (2 * (4 / 3) ** 2))
    window /= window.sum()
    total = 0
    for top in range(0, h, 8):
        for left in range(0, w, 8):
            for k in range(c):
                x = warped[top : top + 8, left : left + 8, k]
                y = target[top : top + 8, left : left + 8, k]
                g = window[: x.shape[0], : x.shape[1]]
                mx, my = (g * x).sum(), (g * y).sum()
                vx, vy = (g * x * x).sum() - mx**2, (g * y * y).sum() - my**2
                cov = (g * x * y).sum() - mx * my
                same = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
                total += 1 - same * (2 * cov + 1e-3) / (vx + vy + 1e-3)
    return total


def test_losses_pixel_by_pixel():
    rng = np.random.default_rng(0)
    frames = rng.uniform(-0.5, 0.5, (2, 3, 24, 19, 3))
    # Sizes, pixels per unit of flow, borders and weights of SSIM.
    levels = {2: ((12, 10), 10.0, 1, 0.01), 3: ((6, 5), 5.0, 1, 0.02), 4: ((3, 3), 2.5, 0, 0.04)}
    flows = {level: rng.normal(size=(2, 2, *row[0], 2)) / 10 for level, row in levels.items()}
    images = frames / (1 + (frames**2).sum(-1, keepdims=True) / 9) ** 0.7
    losses = jax.jit(hidden.motion_losses)(
        jnp.asarray(frames, jnp.float32),
        {level: jnp.asarray(flow, jnp.float32) for level, flow in flows.items()},
    )
    assert len(losses) == 9
    for level, (sides, scale, border, weight) in levels.items():
        photometric, smoothness, ssim = [], [], []
        for n, k in np.ndindex(2, 2):
            flow = flows[level][n, k]
            target = naive_downsample(images[n, k], *sides)
            warped = naive_warp(naive_downsample(images[n, k + 1], *sides), scale * flow)
            photometric.append(naive_photometric(target, warped, border))
            smoothness.append(naive_smoothness(flow, scale, border))
            ssim.append(naive_ssim(target, warped))
        for name, expected in (
            ("photometric", np.mean(photometric)),
            ("smoothness", np.mean(smoothness)),
            ("ssim", weight * np.sum(ssim) / 2),
        ):
            np.testing.assert_allclose(losses[f"{name}_{level}"], expected, rtol=2e-4)


def test_weights_of_the_losses():
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.normal(size=(1, 2, 8, 8, 3)), jnp.float32)
    flows = {2: jnp.asarray(rng.normal(size=(1, 1, 4, 4, 2)), jnp.float32)}
    plain = hidden.motion_losses(frames, flows)
    weighted = hidden.motion_losses(frames, flows, (1 / 16, 1 / 24, 3.0))
    ratios = [float(weighted[name] / plain[name]) for name in plain]
    assert ratios == pytest.approx([1 / 16, 1 / 24, 3])


@pytest.mark.torch
def test_warp_and_its_gradient_equal_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 6, 7, 3)).astype(np.float32)
    flow = rng.normal(size=(2, 6, 7, 2)).astype(np.float32) * 2  # often out of the image
    seed = rng.normal(size=image.shape).astype(np.float32)
    y, pull = jax.vjp(hidden.warp, jnp.asarray(image), jnp.asarray(flow))
    theirs = [torch.tensor(a, requires_grad=True) for a in (image, flow)]
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    x = (columns + theirs[1][..., 0]) / 3 - 1  # -1 and 1 are the centers of the outer pixels
    z = (rows + theirs[1][..., 1]) / 2.5 - 1
    result = torch.nn.functional.grid_sample(
        theirs[0].permute(0, 3, 1, 2), torch.stack([x, z], -1), align_corners=True
    ).permute(0, 2, 3, 1)
    result.backward(torch.tensor(seed))
    np.testing.assert_allclose(y, result.detach().numpy(), atol=1e-5)
    for ours, tensor in zip(pull(jnp.asarray(seed)), theirs, strict=True):
        np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=1e-4)


def texture(rng, h, w):
    """Smooth noise `[h, w, 3]` in the range of pixels minus their mean, divided by 255."""
    waves = rng.uniform(0.1, 0.5, (8, 2, 1, 1)) * rng.choice([-1, 1], (8, 2, 1, 1))
    rows, columns = np.mgrid[:h, :w]
    phase = waves[:, 0] * rows + waves[:, 1] * columns
    amplitude = rng.normal(size=(8, 3)) / 10
    return np.einsum("khw,kc->hwc", np.sin(phase + rng.uniform(0, 6, (8, 1, 1))), amplitude)


def moving(rng, frames, side, step):
    """`[1, T, side, side, 3]`: a texture that moves by (x, y) whole pixels per frame."""
    dx, dy = step
    reach = frames * max(abs(dx), abs(dy))
    scene = texture(rng, side + 2 * reach, side + 2 * reach)
    tops = [reach - k * dy for k in range(frames)]
    lefts = [reach - k * dx for k in range(frames)]
    video = [scene[t : t + side, x : x + side] for t, x in zip(tops, lefts, strict=True)]
    return jnp.asarray(np.stack(video)[None], jnp.float32)


@pytest.mark.full
def test_the_true_flow_has_no_photometric_loss():
    """At full size; the loss of a wrong flow is far above the penalty of zero, (1e-6)^0.4."""
    clip = moving(np.random.default_rng(0), frames=3, side=40, step=(3, -2))

    def loss(x, y):
        flow = jnp.broadcast_to(jnp.array([x, y]) / 20, (1, 2, 40, 40, 2))
        return float(hidden.motion_losses(clip, {1: flow})["photometric_1"])

    assert loss(3.0, -2.0) == pytest.approx(10**-2.4, rel=0.02)
    assert min(loss(0.0, 0.0), loss(-3.0, 2.0), loss(-2.0, 3.0)) > 1


def test_level_pixels_are_the_clips_halved():
    """A ramp that moves by one pixel moves by half a pixel of the next level; corners align."""
    ramp = jnp.broadcast_to(jnp.arange(49.0)[:, None] / 255, (49, 49, 3))
    small = hidden.downsample(jnp.stack([ramp, ramp - 1 / 255]), 25, 25)
    flow = jnp.broadcast_to(jnp.array([0.5, 0.0]), (25, 25, 2))
    loss = hidden.photometric_loss(small[0], hidden.warp(small[1], flow))
    assert float(loss) == pytest.approx(10**-2.4, rel=0.02)


def test_no_loss_where_nothing_differs():
    image = jnp.asarray(texture(np.random.default_rng(0), 20, 30), jnp.float32)[None]
    assert abs(float(hidden.ssim_loss(image, image))) < 1e-4
    constant = float(hidden.smoothness_loss(jnp.full((1, 12, 12, 2), 3.0), 10.0))
    assert constant == pytest.approx(2 * 1e-6**0.3, rel=1e-5)


# --- Learning -------------------------------------------------------------------------------


def initial(model, clip):
    """Random variables with the spread of the initializers, without compiling these."""
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), clip)

    def fill(leaf):
        fan_in = np.prod(leaf.shape[:-1])
        spread = (2 / fan_in) ** 0.5 if leaf.ndim > 1 else 0.0
        return jnp.asarray(spread * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree.map(fill, variables)


def test_losses_are_sown_in_training_only():
    clip = moving(np.random.default_rng(0), frames=3, side=21, step=(1, 0))
    model = MotionNet(**SMALL, loss_weights=(1.0, 2.0, 0.5))
    variables = initial(model, clip)

    @functools.partial(jax.jit, static_argnames=("train", "mutable"))
    def apply(variables, clip, train, mutable):
        return model.apply(variables, clip, train=train, mutable=mutable)

    (flow, ends), changed = apply(variables, clip, train=True, mutable=("losses",))
    flows = {level: ends[f"predict_flow{level}"] for level in (3, 2)}
    expected = jax.jit(hidden.motion_losses)(clip, flows, (1.0, 2.0, 0.5))
    sown = {name: value for name, (value,) in changed["losses"].items()}
    assert sown.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(sown[name], value, rtol=1e-4)
    np.testing.assert_allclose(flow, 20 * flows[2], rtol=1e-6)
    for train, mutable in ((False, "losses"), (True, "batch_stats")):
        call = functools.partial(apply, train=train, mutable=(mutable,))
        assert not jax.eval_shape(call, variables, clip)[1]


@pytest.mark.full
def test_motionnet_learns_a_translation():
    clip = moving(np.random.default_rng(0), frames=3, side=24, step=(2, 0))
    model = MotionNet(**SMALL)
    params = initial(model, clip)["params"]
    optimizer = optax.adam(2e-3)

    def loss_of(params):
        (flow, _), changed = model.apply({"params": params}, clip, train=True, mutable=["losses"])
        losses = changed["losses"]
        total = sum(jax.tree.leaves(losses))
        return total, (losses["photometric_2"][0], flow[:, :, 4:-4, 4:-4].mean((0, 1, 2, 3)))

    @jax.jit
    def step(params, state):
        (_, seen), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, seen

    state, history = optimizer.init(params), []
    for _ in range(80):
        params, state, (photometric, flow) = step(params, state)
        history.append(float(photometric))
    assert history[-1] < 0.2 * history[0]
    np.testing.assert_allclose(flow, [2, 0], atol=0.3)


@pytest.mark.full
def test_both_losses_reach_motionnet():
    clip = moving(np.random.default_rng(0), frames=2, side=32, step=(1, 1))
    model = HiddenTwoStream(3, **SMALL, width=1 / 16)
    params = initial(model, clip)["params"]

    @jax.jit
    @jax.jacrev
    def gradients(kernel):
        motionnet = {**params["motionnet"], "conv1": {**params["motionnet"]["conv1"]}}
        motionnet["conv1"]["kernel"] = kernel
        (logits, _), changed = model.apply(
            {"params": {**params, "motionnet": motionnet}},
            clip,
            train=True,
            mutable=["losses"],
            rngs={"dropout": jax.random.key(1)},
        )
        return jnp.stack([jnp.square(logits).sum(), sum(jax.tree.leaves(changed["losses"]))])

    action, motion = jnp.abs(gradients(params["motionnet"]["conv1"]["kernel"])).max((1, 2, 3, 4, 5))
    assert action > 0
    assert motion > 0
