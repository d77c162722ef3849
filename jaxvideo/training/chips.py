"""Table of accelerators: memory, peak FLOP/s, and model FLOPs utilization."""

from __future__ import annotations

import dataclasses

from jaxvideo.types import UsageError

_GIB, _GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True)
class Chip:
    """Specification of one JAX device.

    A device is a chip, or half a chip on TPU v2, v3 and 7x, whose cores are separate devices.

    Attributes:
      name: common name; for a TPU the prefix of its topology names.
      kinds: values of `device_kind` in JAX. A MIG slice of a GPU has another `device_kind`.
      memory: bytes; nominal for GPUs.
      peak: dense bf16 FLOP/s; a multiply-add counts as two.
      source: source of these numbers.
      clock: clock rate in Hz of a TPU's matrix units, the unit of the compiler's cycle counts; 0
        for other devices.
      cores: TensorCores per TPU device; 0 for other devices.
      link: bytes/s that a TPU sends over all its links to other chips; 0 if unknown.
      form: libtpu's `chip_config_name`.
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

# Clocks of v5e and later are not published. They are derived from the published peak: four matrix
# units per core, 128 x 128 each, 256 x 256 on v6e and 7x. Documented memory of v5p: 95 GB; the
# compiler allows 95.74 GiB.
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
    """Returns the chip with this `device_kind`; None for a CPU and for unknown devices.

    Example:
      >>> chip_of_kind("NVIDIA H200").peak
      989400000000000.0
    """
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def chip_of_topology(name: str) -> Chip:
    """Returns the chip of a TPU topology such as `v5e:16x16`.

    Raises:
      ConfigError: the topology starts with an unknown name.
    """
    prefix = name.partition(":")[0]
    tpus = {chip.name: chip for chip in CHIPS if chip.clock}
    if prefix not in tpus:
        raise UsageError(f"topology {name!r}: unknown TPU {prefix!r}; known are {', '.join(tpus)}")
    return tpus[prefix]


def mfu(
    flops_per_step: float, seconds_per_step: float, device_kind: str, devices: int
) -> float | None:
    """Computes model FLOPs utilization (MFU): FLOP/s of the network over the devices' bf16 peak.

    Args:
      flops_per_step: FLOPs of the network for the whole batch, see `program.model_flops`.
        Rematerialized operations do not count.
      seconds_per_step: measured time of a step.
      device_kind: `device_kind` of the devices.
      devices: number of devices.

    Returns:
      The share, 0 to 1; None if the peak is unknown.

    Example:
      >>> mfu(989.4e12, 2.0, "NVIDIA H200", devices=1)
      0.5
    """
    chip = chip_of_kind(device_kind)
    if chip is None or seconds_per_step <= 0:
        return None
    return flops_per_step / (seconds_per_step * chip.peak * devices)
