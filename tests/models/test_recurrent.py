"""LSTMs against torch and a NumPy loop; ConvNet+LSTM and LRCN."""

import jax
import numpy as np
import pytest

from jaxvideo.models.recurrent import LRCN, LSTM, ConvNetLSTM
from jaxvideo.types import ConfigError, Lowering
from tests.models.test_backbones2d import random_variables, shapes_of, size


def sequence(n=4, steps=5, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, steps, channels), np.float32)


@pytest.mark.torch
def test_lstm_is_torchs():
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    x, lstm = sequence(), LSTM(6)
    variables = random_variables(lstm, (5, 3))
    theirs = torch.nn.LSTM(3, 6, batch_first=True)
    p = {name: torch.from_numpy(value) for name, value in variables["params"].items()}
    theirs.load_state_dict(
        {
            "weight_ih_l0": p["kernel_ih"].T,
            "weight_hh_l0": p["kernel_hh"].T,
            "bias_ih_l0": p["bias"],
            "bias_hh_l0": torch.zeros(24),
        }
    )
    with torch.inference_mode():
        expected, _ = theirs(torch.from_numpy(x))
    for train in (False, True):
        ours = lstm.apply(variables, x, train=train)
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cooijmans(p, x, statistics):
    """Equations 6 to 8 of arXiv 1603.09025; `statistics(which, step, x)`: mean and variance."""

    def bn(which, step, x, offset=0.0):
        mean, var = statistics(which, step, x)
        return p[f"scale_{which}"] * (x - mean) / np.sqrt(var + 1e-5) + offset

    n, steps, _ = x.shape
    h = c = np.zeros((n, p["scale_c"].size))
    states = []
    for t in range(steps):
        gates = bn("hh", t, h @ p["kernel_hh"]) + bn("ih", t, x[:, t] @ p["kernel_ih"]) + p["bias"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(bn("c", t, c, p["bias_c"]))
        states.append(h)
    return np.stack(states, axis=1)


@pytest.fixture(scope="module")
def normalized():
    lstm = LSTM(6, batch_norm=True, bn_momentum=0.75)
    return lstm, random_variables(lstm, (5, 3))


def test_batch_normalized_lstm_in_training(normalized):
    lstm, variables = normalized
    seen = {}

    def statistics(which, step, x):
        seen[which, step] = x.mean(0), x.var(0)
        return seen[which, step]

    x = sequence(seed=1)
    expected = cooijmans(variables["params"], x, statistics)
    ours, changed = lstm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    before, after = variables["batch_stats"], changed["batch_stats"]
    for (which, step), values in seen.items():
        for name, value in zip(("mean", "var"), values, strict=True):
            kept = 0.75 * before[f"{name}_{which}"][step] + 0.25 * value
            np.testing.assert_allclose(after[f"{name}_{which}"][step], kept, atol=1e-5)


def test_batch_normalized_lstm_at_test_and_beyond_its_steps(normalized):
    lstm, variables = normalized
    stats = variables["batch_stats"]

    def statistics(which, step, x):
        row = min(step, 4)
        return stats[f"mean_{which}"][row], stats[f"var_{which}"][row]

    x = sequence(steps=8, seed=1)
    ours = lstm.apply(variables, x, train=False)
    np.testing.assert_allclose(
        ours, cooijmans(variables["params"], x, statistics), atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ConfigError, match="8 frames: this LSTM has BN statistics for 5 steps"):
        lstm.apply(variables, x, train=True, mutable=["batch_stats"])


def test_groups_are_batches_of_their_own(normalized):
    _, variables = normalized
    halves = LSTM(6, batch_norm=True, bn_groups=2)
    x = sequence(n=4)
    together, stats = halves.apply(variables, x, train=True, mutable=["batch_stats"])
    single = LSTM(6, batch_norm=True)
    apart = [
        single.apply(variables, x[i : i + 2], train=True, mutable=["batch_stats"]) for i in (0, 2)
    ]
    np.testing.assert_allclose(together, np.concatenate([a[0] for a in apart]), atol=1e-5)
    mean = np.mean([a[1]["batch_stats"]["mean_c"] for a in apart], axis=0)
    np.testing.assert_allclose(stats["batch_stats"]["mean_c"], mean, atol=1e-6)
    with pytest.raises(ConfigError, match="bn_groups=2 must divide the batch size 3"):
        halves.apply(variables, x[:3], train=True, mutable=["batch_stats"])


def test_lstm_starts_as_it_should():
    x = sequence()
    p = LSTM(6, batch_norm=True).init(jax.random.key(0), x, train=False)["params"]
    np.testing.assert_array_equal(p["bias"], np.repeat([0, 1, 0, 0], 6))
    for gate in np.split(p["kernel_hh"], 4, axis=1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(6), atol=1e-6)
    assert {float(p[f"scale_{which}"][0]) for which in ("ih", "hh", "c")} == {np.float32(0.1)}


def test_counts():
    """8,945,600 parameters without recurrent BN, which adds vectors of size 4H, 4H, H and H."""
    shape = (25, 224, 224, 3)
    without, *_ = shapes_of(ConvNetLSTM(batch_norm=False), shape)
    assert size(without["params"]) == 8_945_600
    both, *_ = shapes_of(ConvNetLSTM(), shape)
    assert size(both["params"]) == 8_945_600 + 10 * 512
    assert size(both["batch_stats"]) == 14_560 + 25 * 2 * 9 * 512

    convolutions = (
        (7 * 7 * 3 + 1) * 96
        + (5 * 5 * 96 // 2 + 1) * 384
        + (9 * 384 + 1) * 512
        + (9 * 512 // 2 + 1) * 512
        + (9 * 512 // 2 + 1) * 384
    )
    fc6, fc7 = (6 * 6 * 384 + 1) * 4096, (4096 + 1) * 4096
    lrcn = convolutions + fc6 + 4 * 256 * (4096 + 256 + 1) + (256 + 1) * 101
    frames = (16, 227, 227, 3)
    assert size(shapes_of(LRCN(), frames)[0]["params"]) == lrcn
    assert size(shapes_of(LRCN(feature="fc7"), frames)[0]["params"]) == lrcn + fc7
    flow, *_ = shapes_of(LRCN(hidden=1024), (16, 227, 227, 2))
    wider = 4 * 1024 * (4096 + 1024 + 1) + (1024 + 1) * 101
    assert size(flow["params"]) == convolutions + fc6 + wider


SMALL = {"num_classes": 5, "width": 0.05, "lowering": Lowering.DIRECT}


@pytest.fixture(scope="module")
def convnet_lstm():
    model = ConvNetLSTM(**SMALL)
    clip = np.random.default_rng(0).standard_normal((2, 4, 48, 48, 3), np.float32)
    variables = random_variables(model, clip.shape[1:])
    apply = jax.jit(lambda x: model.apply(variables, x, train=False))
    return model, variables, clip, apply


def test_convnet_lstm_is_tested_at_the_last_step(convnet_lstm):
    _, _, clip, apply = convnet_lstm
    logits, ends = apply(clip)
    assert ends["steps"].shape == (2, 4, 5)
    np.testing.assert_array_equal(logits, ends["steps"][:, -1])
    later = clip.copy()
    later[:, 2:] = 0
    _, other = apply(later)
    np.testing.assert_allclose(other["steps"][:, :2], ends["steps"][:, :2], atol=1e-6)
    assert np.abs(other["steps"][:, 2:] - ends["steps"][:, 2:]).max() > 1e-6


def test_convnet_lstm_is_trained_at_every_step(convnet_lstm):
    model, variables, clip, _ = convnet_lstm

    def step(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    (logits, ends), changed = jax.eval_shape(step, variables, clip)
    assert logits.shape == ends["steps"].shape == (2, 4, 5)
    assert jax.tree.structure(changed["batch_stats"]) == jax.tree.structure(
        variables["batch_stats"]
    )


@pytest.mark.parametrize("feature", ["fc6", "fc7"])
def test_lrcn_averages_the_predictions_of_its_steps(feature):
    model = LRCN(feature, **SMALL)
    clip = np.random.default_rng(0).standard_normal((2, 3, 48, 48, 3), np.float32)
    variables = random_variables(model, clip.shape[1:])
    assert ("fc7" in variables["params"]["net"]) == (feature == "fc7")
    logits, ends = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, clip)
    mean = jax.nn.softmax(ends["steps"]).mean(1)
    np.testing.assert_allclose(jax.nn.softmax(logits), mean, atol=1e-6)

    def step(variables, x):
        return model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})

    assert jax.eval_shape(step, variables, clip)[0].shape == (2, 3, 5)


def test_lrcn_sees_the_size_of_the_flow():
    model = LRCN(**SMALL)
    flow = np.random.default_rng(0).standard_normal((1, 2, 48, 48, 2), np.float32)
    variables = random_variables(model, flow.shape[1:])
    three = np.concatenate((flow, np.hypot(flow[..., :1], flow[..., 1:])), axis=-1)
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)[0])
    np.testing.assert_allclose(apply(flow), apply(three), rtol=1e-5)
    with pytest.raises(ConfigError, match="feature='fc8': allowed are"):
        shapes_of(LRCN("fc8", **SMALL), flow.shape[1:])
