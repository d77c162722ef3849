"""What chips can do: their memory, their peak, and how much of the peak a run uses."""

from __future__ import annotations

import dataclasses

from jaxvideo.types import ConfigError

_GIB, _GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device as JAX counts them: a chip, or half of one where JAX shows its cores (TPU v2, v3
    and 7x).

    Attributes:
      name: what people call it; of a TPU, what its topologies' names begin with.
      kinds: its `device_kind` in JAX, the whole of it: a slice of a GPU has another one.
      memory: bytes; a GPU's nominal ones.
      peak: dense bf16 FLOP/s, a multiply-add being two.
      source: of these numbers.
      clock: Hz of a TPU's matrix units, in which its compiler counts cycles; 0: no TPU.
      cores: of a TPU.
      link: bytes/s that a TPU sends over all its links to other chips; 0: not known.
      form: libtpu's name for how these cores make up a device.
    """

    name: str
    kinds: tuple[str, ...]
    memory: int
    peak: float
    source: str
    clock: float = 0.0
    cores: int = 0
    link: float = 0.0
    form: str = "default"


_CLOUD = "Cloud TPU documentation, System architecture"
_TPU3 = "Jouppi et al., A domain-specific supercomputer, CACM 63 (7), 2020"
_TPU4 = "Jouppi et al., TPU v4, arXiv 2304.01433"
_ADA = "NVIDIA Ada GPU architecture white paper"
_AMPERE = "NVIDIA Ampere GA102 GPU architecture white paper"

# Nobody prints the clocks of v5e and later: they are those at which the matrix units (as much as
# four of 128 x 128 a core, of v6e and 7x four of 256 x 256) reach the published peak. v5p's memory
# is said to be 95 GB; its compiler gives out 95.74 GiB.
CHIPS = (
    Chip("v2", ("TPU v2",), 8 * _GIB, 23e12, _TPU3, 0.70e9, 1),
    Chip("v3", ("TPU v3",), 16 * _GIB, 61.5e12, _TPU3, 0.94e9, 1),
    Chip("v4", ("TPU v4",), 32 * _GIB, 275e12, _TPU4, 1.05e9, 2, 300e9, "megacore"),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 16 * _GIB, 197e12, _CLOUD, 1.5e9, 1, 200e9),
    Chip("v5p", ("TPU v5", "TPU v5p"), 96 * _GIB, 459e12, _CLOUD, 1.75e9, 2, 600e9, "megacore"),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 32 * _GIB, 918e12, _CLOUD, 1.75e9, 1, 400e9),
    Chip("tpu7x", ("TPU7x",), 96 * _GIB, 1153.5e12, _CLOUD, 2.2e9, 1),
    Chip("A10", ("NVIDIA A10",), 24 * _GB, 125e12, "NVIDIA A10 data sheet"),
    Chip(
        "A100 40GB",
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
        40 * _GB,
        312e12,
        "NVIDIA A100 data sheet",
    ),
    Chip(
        "A100 80GB",
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"),
        80 * _GB,
        312e12,
        "NVIDIA A100 data sheet",
    ),
    Chip("H100", ("NVIDIA H100 80GB HBM3",), 80 * _GB, 989.4e12, "NVIDIA H100 white paper"),
    Chip("H100 PCIe", ("NVIDIA H100 PCIe",), 80 * _GB, 756e12, "NVIDIA H100 white paper"),
    Chip("H100 NVL", ("NVIDIA H100 NVL",), 94 * _GB, 835.5e12, "NVIDIA H100 data sheet"),
    Chip("GH200", ("NVIDIA GH200 480GB",), 96 * _GB, 989.4e12, "NVIDIA GH200 data sheet"),
    Chip("H200", ("NVIDIA H200",), 141 * _GB, 989.4e12, "NVIDIA H200 data sheet"),
    Chip("H200 NVL", ("NVIDIA H200 NVL",), 141 * _GB, 835.5e12, "NVIDIA H200 data sheet"),
    Chip("B200", ("NVIDIA B200",), 180 * _GB, 2250e12, "NVIDIA DGX B200 data sheet"),
    Chip("L4", ("NVIDIA L4",), 24 * _GB, 121e12, "NVIDIA L4 data sheet"),
    Chip("L40S", ("NVIDIA L40S",), 48 * _GB, 362.05e12, "NVIDIA L40S data sheet"),
    Chip("RTX 3090", ("NVIDIA GeForce RTX 3090",), 24 * _GB, 71e12, _AMPERE),
    Chip("RTX 4090", ("NVIDIA GeForce RTX 4090",), 24 * _GB, 165.2e12, _ADA),
)


def chip_of_kind(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for one that is not in the table, and for a CPU."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def chip_of_topology(name: str) -> Chip:
    """The chip of a TPU topology, as `v5e:16x16`; ConfigError if there is none of that name."""
    prefix = name.partition(":")[0]
    tpus = {chip.name: chip for chip in CHIPS if chip.clock}
    if prefix not in tpus:
        raise ConfigError(f"topology {name!r}: the TPUs are {', '.join(tpus)}")
    return tpus[prefix]


def mfu(
    flops_per_step: float, seconds_per_step: float, device_kind: str, devices: int
) -> float | None:
    """Model FLOPs utilization: the share of the devices' bf16 peak that the network needs.

    Args:
      flops_per_step: of the network for the whole batch, `plan.model_flops`; what is computed a
        second time to save memory does not count.

    Returns:
      The share; None where the peak is not known.
    """
    chip = chip_of_kind(device_kind)
    if chip is None or seconds_per_step <= 0:
        return None
    return flops_per_step / (seconds_per_step * chip.peak * devices)
