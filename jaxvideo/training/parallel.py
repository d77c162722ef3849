"""A run's arrays on its devices: one mesh, and which axis of what is split over it.

The mesh has two axes, "data", over which the clips of a batch are spread, and "clip", over which
a clip itself is. GSPMD puts the collectives in. A layout never changes a run's numbers, beyond
rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvideo.data.pipeline import Share
from jaxvideo.types import ConfigError

# Axis of [N, T, H, W, C] by its name in a config.
AXES = {"time": 1, "height": 2}

# Sharding a small leaf costs more than it saves.
_LEAST_SHARDED = 2**14


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How a run is laid out.

    Attributes:
      split: devices that share one clip, for clips too large for one; they must belong to the
        same process, and every stage of the network must leave each of them two rows or frames.
      axis: of the clip that these split: "height" or "time".
      fsdp: parameters and optimizer state are spread over the data axis, and gathered where used.
      accumulate: parts of a batch that are computed one after another, so that only one's
        activations are held. Whole BN groups: `model.bn_groups` must be a multiple.
      remat: the backward pass computes each stage's activations again instead of keeping them.
    """

    split: int = 1
    axis: str = "height"
    fsdp: bool = False
    accumulate: int = 1
    remat: bool = False

    def __post_init__(self):
        if self.axis not in AXES:
            raise ConfigError(f"parallel.axis={self.axis!r}: allowed are {', '.join(AXES)}")
        for name in ("split", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"parallel.{name}={getattr(self, name)}: must be at least 1")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shardings on a mesh: `whole` is on every device, `rows` split by clips, `video` by clips
    and, if asked for, inside them; `share` is the part of every batch that this process reads."""

    mesh: Mesh
    whole: NamedSharding
    rows: NamedSharding
    video: NamedSharding
    share: Share

    def put(self, name: str, local: np.ndarray) -> jax.Array:
        """This process's rows of a batch's array, as a part of the global one."""
        if name == "video" and self.video != self.rows:
            # A process holds whole clips: its devices take their parts of them.
            shape = (local.shape[0] * self.share.count, *local.shape[1:])
            first = self.share.index * local.shape[0]

            def part(index):
                rows = slice(*index[0].indices(shape[0]))
                return local[slice(rows.start - first, rows.stop - first), *index[1:]]

            return jax.make_array_from_callback(shape, self.video, part)
        return jax.make_array_from_process_local_data(self.rows, local)

    def state(self, shapes: Any, fsdp: bool) -> Any:
        """Shardings of a training state of these shapes: on every device, or, with `fsdp`, each
        large array's longest axis that the data axis divides spread over it."""
        count = self.mesh.shape["data"]

        def one(leaf):
            axes = [a for a, n in enumerate(leaf.shape) if n % count == 0 and n >= count]
            if not fsdp or not axes or leaf.size < _LEAST_SHARDED:
                return self.whole
            longest = max(axes, key=lambda axis: leaf.shape[axis])
            spec = [None] * leaf.ndim
            spec[longest] = "data"
            return NamedSharding(self.mesh, PartitionSpec(*spec))

        return jax.tree.map(one, shapes)


def check_split(parallel: Parallel, model: Any, clip_shape: tuple[int, ...]) -> None:
    """Refuses a network whose maps `[T, H, W, C]` become too small to be split: with one row on
    a device, XLA's partitioner (of jax 0.10) gives wrong gradients and says nothing.

    Raises:
      ConfigError: it names the stage.
    """
    if parallel.split == 1:
        return
    clip = jax.ShapeDtypeStruct((1, *clip_shape), np.float32)

    def endpoints(clip):
        return model.init_with_output(jax.random.key(0), clip, train=False)[0][1]

    for name, shape in jax.eval_shape(endpoints, clip).items():
        if len(shape.shape) < 5:
            continue
        # Counted from the end, as T3D + TSN has an axis of segments before T.
        size = shape.shape[AXES[parallel.axis] - 5]
        if size % parallel.split or size < 2 * parallel.split:
            raise ConfigError(
                f"config.parallel.split={parallel.split}: {name} has {size} in {parallel.axis}, "
                f"which must be a multiple of it and at least {2 * parallel.split}; a larger "
                "clip, the other parallel.axis, or none"
            )


def make_layout(parallel: Parallel, batches: dict[str, int], devices: Any = None) -> Layout:
    """The layout on all devices (or the given ones).

    Args:
      batches: global batch sizes by the config key that they come from.

    Raises:
      ConfigError: the devices cannot be divided so, or do not divide a batch.
    """
    # By process, so that each one's rows of a batch are neighbors: BN groups are contiguous
    # parts of the global batch, and must not depend on how a slice is wired.
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    processes = sorted({device.process_index for device in devices})
    local = len(devices) // len(processes)
    if local % parallel.split:
        raise ConfigError(
            f"config.parallel.split={parallel.split}: must divide the {local} devices of a process"
        )
    count = len(devices) // parallel.split
    for name, size in batches.items():
        if size % count:
            over = f"{count} groups of {parallel.split}" if parallel.split > 1 else f"{count}"
            raise ConfigError(f"config.{name}={size}: must be a multiple of the {over} devices")
    # Auto axes: under the explicit ones, the default, dropout and reshapes raise.
    grid = np.array(devices).reshape(count, parallel.split)
    mesh = Mesh(grid, ("data", "clip"), axis_types=(AxisType.Auto, AxisType.Auto))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    video = rows
    if parallel.split > 1:
        spec: list[str | None] = [None] * 5
        spec[0], spec[AXES[parallel.axis]] = "data", "clip"
        video = NamedSharding(mesh, PartitionSpec(*spec))
    index = processes.index(jax.process_index()) if jax.process_index() in processes else 0
    return Layout(
        mesh, NamedSharding(mesh, PartitionSpec()), rows, video, Share(index, len(processes))
    )
