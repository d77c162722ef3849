"""One process of `test_layouts`: steps of a small network in some layout; prints JSON.

python -m tests.training.layout_worker '{"model": ..., "clip": ..., "parallel": ..., ...}'
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvideo import create_model
from jaxvideo.models.resnet3d import KINDS, ResNet3D
from jaxvideo.training import distributed
from jaxvideo.training.parallel import Parallel, check_split, make_layout
from jaxvideo.training.step import TrainState, init_variables, make_train_step
from jaxvideo.types import Lowering, Preprocessing

BATCH = 16
SOONEST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def train(model: dict, clip: tuple, parallel: dict, steps: int) -> dict:
    """Returns the losses, a checksum of the final parameters, and the step's collectives."""
    layout = make_layout(Parallel(**parallel), {"batch_size": BATCH})
    lowering = Lowering(model.pop("lowering", "auto"))
    # Two stages of one block contain all operations and compile faster.
    if model["name"] == "r2plus1d":
        del model["name"]
        network = ResNet3D(
            KINDS["r2plus1d"][:3], blocks=(1, 1), lowering=lowering, num_classes=5, **model
        )
    else:
        network = create_model(**model, lowering=lowering, num_classes=5)
    frames, size = clip
    check_split(Parallel(**parallel), network, (frames, size, size, 3))
    preprocessing = Preprocessing(frames=frames, size=size, crop=size)
    optimizer = optax.sgd(1e-4, momentum=0.9)

    def fresh():
        variables = init_variables(network, preprocessing, 0)
        params, stats = variables["params"], variables["batch_stats"]
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, stats, optimizer.init(params), None)

    chosen = Parallel(**parallel)
    shardings = layout.state(jax.eval_shape(fresh), chosen.fsdp)
    state = jax.jit(fresh, out_shardings=shardings)()
    train_step = make_train_step(
        network,
        optimizer,
        preprocessing,
        flip=True,
        accumulate=chosen.accumulate,
        remat=chosen.remat,
    )
    compiled, losses = None, []
    for step in range(steps):
        rng = np.random.default_rng(step)
        batch = {
            "video": rng.integers(0, 256, (BATCH, *preprocessing.shape), np.uint8),
            "label": rng.integers(0, 5, BATCH).astype(np.int32),
            "weight": (np.arange(BATCH) != 3).astype(np.float32),
            "sample": np.stack([np.arange(BATCH) + step * BATCH] * 3, 1).astype(np.int32),
        }
        each = BATCH // layout.share.count
        own = slice(layout.share.index * each, (layout.share.index + 1) * each)
        given = {name: layout.put(name, array[own]) for name, array in batch.items()}
        if compiled is None:
            jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, layout.whole))
            lowered = jitted.lower(state, given, jax.random.key(0))
            compiled = lowered.compile(compiler_options=SOONEST)
        state, metrics = compiled(state, given, jax.random.key(0))
        losses.append(float(metrics["loss"]))
        print(f"step {step + 1}", flush=True)
        assert np.asarray(metrics["broken"]).tolist().count(-1) == BATCH - 1
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
    text = compiled.as_text()
    counts = {k: len(re.findall(rf" {k}(?:-start)?\(", text)) for k in kinds}
    whole = jax.jit(lambda tree: sum(jnp.abs(x).sum() for x in jax.tree.leaves(tree)))
    return {"losses": losses, "sum": float(whole(state.params)), "collectives": counts}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    where = asked.get("processes")
    if where:
        distributed.start(f"127.0.0.1:{where['port']}", where["count"], where["index"])
    with distributed.together():
        found = train(asked["model"], tuple(asked["clip"]), asked["parallel"], asked["steps"])
    if distributed.writes():
        print(json.dumps(found))
