"""The layers of a network, found by tracing it."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from generate.text import shape
from jaxvideo.models import create_model, model_entry


@dataclasses.dataclass
class Layer:
    """A submodule.

    Attributes:
      scope: its name in `params`.
      kind: name of the linen class.
      detail: kernel and stride of a convolution.
      output: shape without the batch axis; empty if its result is not one array.
      parameters: number, with those of the BN behind it.
    """

    scope: str
    kind: str
    detail: str
    output: tuple[int, ...]
    parameters: int


def layers(name: str) -> tuple[list[Layer], dict[str, tuple[int, ...]]]:
    """Returns the layers with parameters, in network order, and the shapes of the endpoints."""
    model, clip = create_model(name), model_entry(name).preprocessing.shape
    called: dict[tuple[str, ...], Layer] = {}
    endpoints: dict[str, tuple[int, ...]] = {}
    order: list[tuple[tuple[str, ...], int]] = []

    def record(call, arguments, keywords, context):
        result, module = call(*arguments, **keywords), context.module
        if context.method_name == "__call__" and module.path:
            array = result[0] if isinstance(result, tuple) else result
            output = tuple(getattr(array, "shape", ()))[1:]
            kind = type(module).__name__
            called[module.path] = Layer("/".join(module.path), kind, _detail(module), output, 0)
        return result

    def init(clip):
        with nn.intercept_methods(record):
            (_, found), variables = model.init_with_output(jax.random.key(0), clip, train=False)
        endpoints.update({key: value.shape[1:] for key, value in found.items()})
        # Stored while tracing, because JAX sorts the keys of returned dicts.
        params = variables["params"]
        deep = len(params) < 4  # a backbone in one scope
        for scope, tree in params.items():
            parts = [(scope,)]
            if deep and all(hasattr(value, "items") for value in tree.values()):
                parts = [(scope, inner) for inner in tree]
            for path in parts:
                values = tree if len(path) == 1 else tree[path[1]]
                order.append((path, sum(math.prod(a.shape) for a in jax.tree.leaves(values))))

    jax.eval_shape(init, jax.ShapeDtypeStruct((1, *clip), jnp.float32))
    rows: list[Layer] = []
    for path, parameters in order:
        layer = called.get(path, Layer("/".join(path), "", "", (), 0))
        if layer.kind == "BatchNorm" and rows:
            rows[-1].parameters += parameters
        else:
            layer.parameters = parameters
            rows.append(layer)
    return rows, endpoints


def _detail(module: nn.Module) -> str:
    kernel = getattr(module, "kernel_size", None) or getattr(module, "kernel", None)
    if not isinstance(kernel, tuple) or not all(isinstance(k, int) for k in kernel):
        return ""
    strides = getattr(module, "strides", 1)
    strides = strides if isinstance(strides, tuple) else (strides,)
    text = shape(kernel)
    return text if set(strides) <= {1} else f"{text}, stride {','.join(map(str, strides))}"
