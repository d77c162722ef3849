"""Golden values of three training steps of a small R(2+1)D.

Weights, clips and labels are made by numpy, so that the numbers depend on neither JAX's random
numbers nor an initializer.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxvideo.models.resnet3d import KINDS, ResNet3D
from jaxvideo.models.summary import trace
from jaxvideo.training.optim import Optim, make_optimizer, make_schedule
from jaxvideo.training.step import first_state, make_train_step
from jaxvideo.types import Preprocessing
from jaxvideo.weights import tree

GOLDEN = Path(__file__).with_suffix(".json")
PRE = Preprocessing(frames=4, size=20, crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
CHANGED = (
    "a training step gives other numbers than before: runs that are resumed with this version "
    "go on differently, and results are no longer comparable. If that is meant, regenerate with "
    "`python -m tests.training.test_golden_step` and say in the CHANGELOG what changed: the "
    "loss and the gradient (network, preprocessing, loss), the update (optimizer, schedule, "
    "weight decay) or the statistics (BN)"
)


def numbers_of(arrays, rng) -> dict[str, list[float]]:
    """Returns each array's norm and its product with a random array, which depends on order."""
    return {
        name: [
            float(np.linalg.norm(array)),
            float(np.vdot(rng.standard_normal(np.shape(array)), array)),
        ]
        for name, array in sorted(tree.flatten(arrays).items())
    }


def steps() -> list[dict]:
    """Returns the results of three steps. The rate rises for two steps, then falls."""
    model = ResNet3D(KINDS["r2plus1d"][:3], blocks=(1, 1), num_classes=5, width=1 / 8, bn_groups=2)
    shapes = trace(model, jax.ShapeDtypeStruct((1, *PRE.shape), jnp.float32)).variables
    rng = np.random.default_rng(7)

    def filled(name, shape):
        if name.endswith("kernel"):
            size = np.prod(shape.shape[:-1])
            return np.float32(rng.standard_normal(shape.shape) * (2 / size) ** 0.5)
        low = 0.5 if name.endswith(("scale", "var")) else -0.2
        return np.float32(rng.uniform(low, low + 1, shape.shape))

    flat = tree.flatten(shapes)
    variables = tree.unflatten({name: filled(name, flat[name]) for name in sorted(flat)})
    optim = Optim(
        lr=0.05, warmup_epochs=1.0, weight_decay=1e-2, no_decay=("*/bias",), nesterov=True
    )
    schedule = make_schedule(optim, steps_per_epoch=2, epochs=3)
    optimizer = make_optimizer(optim, schedule, variables["params"])
    state = first_state(variables, optimizer)
    step = jax.jit(make_train_step(model, optimizer, PRE, flip=False, label_smoothing=0.1))
    n, done = 8, []
    for index in range(3):
        batch = {
            "video": rng.integers(0, 256, (n, *PRE.shape), dtype=np.uint8),
            "label": rng.integers(0, 5, n, dtype=np.int32),
            "weight": np.float32([1] * 7 + [0]),
            "sample": np.stack([np.zeros(n), np.arange(n), np.zeros(n)], 1).astype(np.int32),
        }
        new, metrics = step(state, batch, jax.random.key(0))
        update = jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), state.params, new.params)
        same = np.random.default_rng(index)
        done.append(
            {
                "loss": float(metrics["loss"]),
                "top1": float(metrics["top1"]),
                "gradient norm": float(metrics["grad_norm"]),
                "rate": float(schedule(index)),
                "update": numbers_of(update, same),
                "statistics": numbers_of(new.batch_stats, same),
            }
        )
        state = new
    return done


def differences(found, golden, limit=2e-4) -> list[str]:
    """Returns names of differing numbers; products are compared relative to the norm."""
    wrong = []
    for index, (one, other) in enumerate(zip(found, golden, strict=True)):
        assert one.keys() == other.keys()
        for what in one:
            if isinstance(one[what], float):
                pairs = {"": (one[what], other[what], abs(other[what]))}
            else:
                assert one[what].keys() == other[what].keys(), "names of variables"
                pairs = {
                    f" {name} ({kind})": (a, b, other[what][name][0])
                    for name in one[what]
                    for kind, a, b in zip(
                        ("norm", "product"), one[what][name], other[what][name], strict=True
                    )
                }
            wrong += [
                f"step {index} {what}{name}: {a:.7g}, was {b:.7g}"
                for name, (a, b, scale) in pairs.items()
                if abs(a - b) > limit * scale
            ]
    return wrong


def test_golden_step():
    wrong = differences(steps(), json.loads(GOLDEN.read_text()))
    assert not wrong, f"{CHANGED}\n" + "\n".join(wrong[:12])


def test_the_comparison_sees_a_small_change():
    golden = json.loads(GOLDEN.read_text())
    changed = json.loads(GOLDEN.read_text())
    name = next(iter(golden[0]["statistics"]))
    changed[2]["statistics"][name][1] *= -1
    changed[1]["loss"] *= 1.001
    assert [text.split(":")[0] for text in differences(changed, golden)] == [
        "step 1 loss",
        f"step 2 statistics {name} (product)",
    ]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(steps(), indent=1) + "\n")
