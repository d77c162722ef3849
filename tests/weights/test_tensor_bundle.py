import re

import numpy as np
import pytest

from jaxvideo.types import CheckpointError
from jaxvideo.weights import files, tensor_bundle
from tests.weights import tensor_bundles

ARRAYS = {
    "RGB/inception_i3d/Conv3d_1a_7x7/batch_norm/beta": np.float32([0.5, -2.0]),
    "RGB/inception_i3d/Conv3d_1a_7x7/batch_norm/moving_mean": np.float32([[1.0], [3.0]]),
    "RGB/inception_i3d/Conv3d_1a_7x7/conv_3d/w": np.arange(300, dtype=np.float32).reshape(3, -1),
    "global_step": np.int64(300),
    "other/a": np.arange(-2, 3, dtype=np.int32),
    "other/b": np.float64([0.1]),
    "other/c": np.array([True, False]),
    "other/d": np.float16([1.5]),
    "other/e": np.zeros((0, 3), np.float32),
    "z": np.arange(200, dtype=np.uint8),
}


def same(found, expected=ARRAYS):
    assert list(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("big_endian", [False, True])
def test_arrays_of_a_checkpoint(tmp_path, shards, big_endian):
    """By its prefix, as in TensorFlow, or by any of its files."""
    arrays = {**ARRAYS, "words": b"\1x"}
    prefix = tensor_bundles.write(tmp_path / "model.ckpt-7", arrays, shards, big_endian)
    same(files.read_arrays(prefix))
    for file in tmp_path.iterdir():
        same(files.read_arrays(file))
    assert files.read_description(prefix) is None
    names = ["index", *(f"data-{i:05}-of-{shards:05}" for i in range(shards))]
    joined = b"".join((tmp_path / f"model.ckpt-7.{name}").read_bytes() for name in names)
    (tmp_path / "joined").write_bytes(joined)
    assert files.sha256(prefix) == files.sha256(tmp_path / "joined")


def test_bfloat16(tmp_path, monkeypatch):
    """The upper half of a float: 1, -2.5, 3.140625."""
    monkeypatch.setitem(tensor_bundles.TYPES, "uint8", 14)
    upper = np.frombuffer(bytes.fromhex("803f20c04940"), np.uint8)
    prefix = tensor_bundles.write(tmp_path / "m", {"a": upper})
    index = tmp_path / "m.index"
    # Six bytes are three of them.
    entry = tensor_bundles.field(2, tensor_bundles.field(1, 6))
    content = tensor_bundles.table(
        [
            (key, value.replace(entry, tensor_bundles.field(2, tensor_bundles.field(1, 3))))
            for key, value in tensor_bundle._table(index.read_bytes())
        ]
    )
    index.write_bytes(content)
    np.testing.assert_array_equal(
        files.read_arrays(prefix)["a"], np.float32([1, -2.5, 3.140625]), strict=True
    )


def test_crc32c():
    """RFC 3720, B.4, and lengths around the ends of lanes."""
    for data, expected in (
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"\0" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ):
        assert tensor_bundle.crc32c(data) == expected
    data = np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8).tobytes()
    for size in (1, 2, 3, 4, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097, 5000):
        crc = tensor_bundle.crc32c(data[:size])
        hidden = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        assert hidden == tensor_bundles.crc32c(data[:size])


SMALL = {"a/kernel": np.float32([1, 2]), "a/bias": np.float32([3]), "b": np.float32(4)}


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    """In the index and in the data, except for unused bytes."""
    prefix = tensor_bundles.write(tmp_path / "m", SMALL)
    unnoticed, messages = {}, []
    for file in tensor_bundle.files_of(prefix):
        content = file.read_bytes()
        for at in range(len(content)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << at % 8
            file.write_bytes(damaged)
            try:
                same(files.read_arrays(prefix), SMALL)
                unnoticed.setdefault(file.name, []).append(at - len(content))
            except CheckpointError as error:
                messages.append(str(error))
        file.write_bytes(content)
    assert all(re.match(f"{tmp_path}/m\\.(index|data-0)", message) for message in messages)
    # The meta block, which is empty, its position, and the padding of the footer.
    assert list(unnoticed) == ["m.index"]
    index = (tmp_path / "m.index").read_bytes()
    meta = index.index(tensor_bundles.block([]) + b"\0", len(index) - 130) - len(index)
    assert set(unnoticed["m.index"]) == {*range(meta, meta + 13), -48, -47, *range(-44, -8)}


def test_a_cut_file_is_noticed(tmp_path):
    prefix = tensor_bundles.write(tmp_path / "m", SMALL)
    for file in tensor_bundle.files_of(prefix):
        content = file.read_bytes()
        for size in range(len(content)):
            file.write_bytes(content[:size])
            with pytest.raises(CheckpointError, match=f"{file.name}.* cannot be read"):
                files.read_arrays(prefix)
        file.write_bytes(content)


def test_missing_files(tmp_path):
    prefix = tensor_bundles.write(tmp_path / "m", SMALL, shards=2)
    (tmp_path / "m.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match=r"m\.data-00001-of-00002: no such file"):
        files.read_arrays(prefix)
    (tmp_path / "m.index").unlink()
    with pytest.raises(CheckpointError, match=r"m: no such file"):
        files.read_arrays(prefix)
    with pytest.raises(CheckpointError, match="TensorFlow's checkpoints with their index"):
        files.read_arrays(tmp_path / "m.data-00000-of-00002")


def test_unsupported_features_are_errors(tmp_path):
    prefix, index = tmp_path / "m", tmp_path / "m.index"
    tensor_bundles.write(prefix, SMALL)
    content = bytearray(index.read_bytes())
    size = content.index(tensor_bundles.block([])) - 5  # the first block's
    content[size] = 1
    crc = tensor_bundles.crc32c(content[: size + 1])
    content[size + 1 : size + 5] = crc.to_bytes(4, "little")
    index.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\.index cannot be read \(it is compressed"):
        files.read_arrays(prefix)
    sliced = [(b"", b"\x08\1"), (b"\0\x80w", b""), (b"w", tensor_bundles.field(7, b""))]
    index.write_bytes(tensor_bundles.table(sliced))
    with pytest.raises(CheckpointError, match=r"m\.index: w is stored in slices"):
        files.read_arrays(prefix)


def test_tensorflow_writes_what_is_read(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="needs the extra [tf]")
    for part, names in enumerate((list(ARRAYS)[:4], list(ARRAYS)[4:])):
        tensors = [tf.constant(ARRAYS[name]) for name in names]
        texts = [tf.constant(["a", "bc"]), tf.constant([1, -2.5, 3.140625], tf.bfloat16)]
        more = [f"text{part}", f"bfloat{part}"]
        tf.raw_ops.SaveV2(
            prefix=str(tmp_path / f"part{part}"),
            tensor_names=[*names, *more],
            shape_and_slices=[""] * (len(names) + 2),
            tensors=[*tensors, *texts],
        )
    parts = [str(tmp_path / f"part{part}") for part in (0, 1)]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(tmp_path / "model.ckpt")
    )
    found = files.read_arrays(tmp_path / "model.ckpt")
    for part in (0, 1):
        half = np.float32([1, -2.5, 3.140625])
        np.testing.assert_array_equal(found.pop(f"bfloat{part}"), half, strict=True)
    same(found)
