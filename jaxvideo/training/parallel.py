"""Sharding of a run: one mesh, and the sharding of every array on it.

The mesh has two axes: the clips of a batch are sharded over "data", and time or height of a clip
over "clip". GSPMD inserts the collectives. Except for rounding, the sharding does not change the
numbers of a run.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvideo.data.pipeline import Share
from jaxvideo.training.schema import AXES, Parallel
from jaxvideo.types import ConfigError

# Sharding a small leaf costs more than it saves.
_LEAST_SHARDED = 2**14


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shardings on a mesh.

    Attributes:
      mesh: axes "data" and "clip".
      whole: replicated on every device.
      rows: axis 0 is sharded over the clips of a batch.
      video: as `rows`; with `Parallel.split`, time or height is sharded too.
      share: the part of every batch that this process reads.
    """

    mesh: Mesh
    whole: NamedSharding
    rows: NamedSharding
    video: NamedSharding
    share: Share

    def transfer(self, ndim: int) -> NamedSharding:
        """Returns the sharding with which a video is transferred: RGB (5 axes) or planes (3 axes).

        Planes have no axis of height. If it is split, each device of a clip gets whole frames, and
        the training step splits them after the conversion to RGB.
        """
        height = len(self.video.spec) > 2
        return self.rows if height and ndim == 3 else self.video

    def put(self, name: str, local: np.ndarray) -> jax.Array:
        """Returns a global array of a batch, given the rows that this process has read.

        Args:
          name: key of the batch.
          local: the rows of this process.
        """
        video = self.transfer(local.ndim)
        if name == "video" and video != self.rows:
            # This process has whole clips; each of its devices takes a part of them.
            shape = (local.shape[0] * self.share.count, *local.shape[1:])
            first = self.share.index * local.shape[0]

            def part(index):
                rows = slice(*index[0].indices(shape[0]))
                return local[slice(rows.start - first, rows.stop - first), *index[1:]]

            return jax.make_array_from_callback(shape, video, part)
        return jax.make_array_from_process_local_data(self.rows, local)

    def state(self, shapes: Any, fsdp: bool) -> Any:
        """Returns the shardings of a training state.

        Args:
          shapes: the state, or the shapes of its arrays.
          fsdp: shard the longest divisible axis of each large array over "data". Otherwise all
            arrays are replicated.
        """
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
    """Checks that the feature maps of a network are large enough for `parallel.split`.

    With one row per device, XLA's partitioner (jax 0.10) computes wrong gradients silently.

    Args:
      clip_shape: (T, H, W, C).

    Raises:
      ConfigError: a stage is too small; the message names it.
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
                f"which must be a multiple of it and at least {2 * parallel.split}; use a larger "
                "clip, the other config.parallel.axis, or config.parallel.split=1"
            )


def make_layout(parallel: Parallel, batches: dict[str, int], devices: Any = None) -> Layout:
    """Returns the layout on all devices (or the given ones).

    Args:
      batches: global batch sizes, by config key.

    Raises:
      ConfigError: `parallel.split` does not divide the devices, or the devices a batch size.
    """
    # Sorted by process: BN groups are contiguous parts of the global batch and must not depend on
    # the topology of a pod.
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
    # With explicit axes, the default of jax, dropout and some reshapes raise errors.
    grid = np.array(devices).reshape(count, parallel.split)
    mesh = Mesh(grid, ("data", "clip"), axis_types=(AxisType.Auto, AxisType.Auto))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    video = rows
    if parallel.split > 1:
        spec: list[str | None] = [None] * (1 + AXES[parallel.axis])
        spec[0], spec[-1] = "data", "clip"
        video = NamedSharding(mesh, PartitionSpec(*spec))
    index = processes.index(jax.process_index()) if jax.process_index() in processes else 0
    return Layout(
        mesh, NamedSharding(mesh, PartitionSpec()), rows, video, Share(index, len(processes))
    )
