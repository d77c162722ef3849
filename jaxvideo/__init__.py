"""Video ConvNets in JAX: from C3D to X3D, as pure-functional Flax modules.

Public names are imported on first use. Loader workers import `jaxvideo.data` only, so they start
fast and never initialize an accelerator.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Network",
    "__version__",
    "create_model",
    "list_models",
    "load",
    "load_weights",
    "register",
]

if TYPE_CHECKING:
    from jaxvideo.models import create_model, register
    from jaxvideo.network import Network, list_models, load
    from jaxvideo.pretrained import load_weights


def __getattr__(name: str):
    if name in ("create_model", "register"):
        from jaxvideo import models

        return getattr(models, name)
    if name in ("Network", "list_models", "load"):
        from jaxvideo import network

        return getattr(network, name)
    if name == "load_weights":
        from jaxvideo import pretrained

        return pretrained.load_weights
    raise AttributeError(f"module 'jaxvideo' has no attribute {name!r}")
