"""Devices of a TPU topology that need not exist, and memory sizes."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import jax

from jaxvideo.training.chips import Chip, chip_of_topology
from jaxvideo.types import ConfigError, UsageError

_FORMS = (
    "TPU topologies as Cloud TPU lists them, such as v5e:2x2, v5e:16x16, v6e:8x8, v4:2x2x1 or "
    "v5p:4x4x4; or the memory of a device, such as 80GB, to compile for the local device"
)

_UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


def tpu_devices(topology: str) -> tuple[list[Any], Chip]:
    """Returns the devices of a TPU topology such as `v5e:16x16`, and their row of the chip table.

    The devices need not exist; programs can be compiled for them.

    Raises:
      ConfigError: there is no such topology, or libtpu is not installed.
    """
    from jax.experimental import topologies

    if not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise UsageError(f"topology {topology!r}: allowed are {_FORMS}")
    chip = chip_of_topology(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "the TPU compiler (libtpu) is not installed. Run: python -m pip install "
            "'jaxvideo[tpu]'. No TPU is needed"
        )
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    # A host has 2 x 2 chips, unless the topology is smaller.
    host = tuple(min(side, most) for side, most in zip((*sides, 1, 1), (2, 2, 1), strict=False))
    try:
        description = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology,
            chip_config_name=chip.form,
            chips_per_host_bounds=host,
        )
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        if not said.startswith(("INVALID_ARGUMENT", "NOT_FOUND")):
            raise ConfigError(f"libtpu cannot start: {said}") from error
        raise UsageError(f"topology {topology!r}: allowed are {_FORMS} ({said})") from error
    return list(description.devices), chip


def memory_size(text: str) -> int:
    """Parses a memory size in bytes.

    Raises:
      ConfigError: `text` is not a number with one of the units MB, MiB, GB, GiB.

    Example:
      >>> memory_size("80GB")
      80000000000
    """
    found = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(_UNITS)})", text)
    if not found:
        raise UsageError(f"topology {text!r}: allowed are {_FORMS}")
    return round(float(found[1]) * _UNITS[found[2]])
