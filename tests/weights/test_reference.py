"""The original networks run beside ours, and the report of their differences."""

import numpy as np
import pytest

from jaxvideo.pretrained import compare_with_reference, read_weights
from jaxvideo.weights import reference

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from tests.models import ports  # noqa: E402
from tests.models.test_slowfast import hub  # noqa: E402, F401  (a fixture)

pytestmark = pytest.mark.torch

ONE = ["conv1", "res2", "res3", "res4", "res5", "logits"]
TWO = [f"{pathway}_{stage}" for stage in ONE[:-1] for pathway in ("slow", "fast")] + ["logits"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("x3d_xs", ONE),
        ("slow_r50", ONE),
        ("c2d_r50", ONE),
        ("csn_r101", ["pool1", *ONE[1:]]),
        ("slowfast_r50", TWO),
    ],
)
def test_stages_of_pytorchvideo(hub, tmp_path, name, stages):  # noqa: F811
    network = ports.randomize(getattr(hub, name)(model_num_class=7))
    path = tmp_path / "weights.pyth"
    torch.save({"model_state": network.state_dict()}, path)
    weights = read_weights(name, path, "pytorchvideo")
    compared = compare_with_reference(weights, path)
    assert compared["package"].startswith("pytorchvideo ")
    assert compared["clip"] == [1, *weights.preprocessing.shape]
    assert list(compared["stages"]) == stages
    assert max(compared["stages"].values()) < 1e-4, compared


def test_a_network_that_the_library_lacks(hub):  # noqa: F811
    clip = np.zeros((1, 4, 8, 8, 3), np.float32)
    with pytest.raises(LookupError, match="hub has no network slow_4x16_r50"):
        reference.pytorchvideo_stages("slow_4x16_r50", {}, 7, clip)
