"""Every source by name: downloaded from loopback under its real file name, then converted."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

import jaxvideo
from jaxvideo.weights import store, zoo
from tests.weights.server import serving

pytest.importorskip("torch", reason="needs the extra [torch]")
from tests.models.test_ports import error, torchvision  # noqa: F401  (a fixture)
from tests.models.test_slowfast import hub  # noqa: F401  (a fixture)
from tests.weights.test_sources import CASES

pytestmark = pytest.mark.torch

SOURCES = sorted({row.source for row in zoo.table() if row.downloadable} & CASES.keys())


@pytest.mark.full
@pytest.mark.parametrize("source", SOURCES)
def test_logits_of_the_reference(request, tmp_path, monkeypatch, source):
    """Without network access, the second use has the same parameters."""
    monkeypatch.setenv("JAXVIDEO_CACHE", str(tmp_path / "cache"))
    real = next(row for row in zoo.table() if row.source == source and row.downloadable)
    written = tmp_path / "written"
    written.mkdir()
    path = written / (real.files[0].name if len(real.files) == 1 else "model.ckpt")
    network, clip, expected = CASES[source](path, request.getfixturevalue)
    with serving() as server:
        for file in written.iterdir():
            server.files[f"/{file.name}"] = file.read_bytes()
        # The writer of TensorFlow's checkpoints makes two shards, the authors' have one.
        names = sorted((file.name for file in written.iterdir()), key=lambda n: ".data-" in n)
        assert names[0] == real.files[0].name
        files = [zoo.File(name, (server.url(f"/{name}"),)) for name in names]
        row = dataclasses.replace(real, network=network, files=tuple(files), preprocessing={})
        monkeypatch.setattr(zoo, "table", lambda: (row,))
        net = jaxvideo.load(network, weights=row.tag)
    logits, _ = jax.jit(partial(net.model.apply, train=False))(net.variables, clip)
    assert error(logits, expected) < 1e-4
    assert net.card["license"] == row.license
    assert all(state == "ok" for state in store.verify(row).values())
    monkeypatch.setenv("JAXVIDEO_OFFLINE", "1")
    again = jaxvideo.load(network, weights="default")
    jax.tree.map(np.testing.assert_array_equal, again.variables, net.variables)
    assert again.spec == net.spec
