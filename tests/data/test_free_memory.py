"""The memory that is left for this process."""

from jaxvideo.data import memory


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_cgroups(tmp_path):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    assert memory._cgroup(own, root) is None
    # Version 2: the parent has the smaller limit; caches count as free.
    own.write_text("0::/job/step\n")
    stat = "anon 5\ninactive_file 10\n"
    write(root / "job/step", memory__max="max", memory__current=1, memory__stat=stat)
    assert memory._cgroup(own, root) is None
    write(root / "job", memory__max=1000, memory__current=400, memory__stat=stat)
    assert memory._cgroup(own, root) == (610, "limit of this container or job")
    # Version 1.
    own.write_text("5:cpu:/\n4:memory:/box\n")
    first = {"memory__usage_in_bytes": 300, "memory__stat": "total_inactive_file 50\n"}
    write(root / "memory/box", memory__limit_in_bytes=2**63 - 4096, **first)
    assert memory._cgroup(own, root) is None
    # In a container the path is the host's, and the limit is that of the mounted root.
    own.write_text("4:memory:/host/path\n")
    write(root / "memory", memory__limit_in_bytes=500, **first)
    assert memory._cgroup(own, root)[0] == 250
