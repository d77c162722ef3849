"""Writes TensorFlow's checkpoints V2 byte by byte from the descriptions of their formats."""

import struct

import numpy as np

TYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}
TEXT = 7


def crc32c(data):
    """CRC-32C bit by bit, as defined, with LevelDB's mask."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    register ^= 0xFFFFFFFF
    return ((register >> 15 | register << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number):
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries, restart_every=3):
    """A block of entries `(key, value)`; every `restart_every`-th key is stored in full."""
    out, starts, before = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        else:
            starts.append(len(out))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    starts = starts or [0]
    return out + struct.pack(f"<{len(starts)}I", *starts) + struct.pack("<I", len(starts))


def table(entries, per_block=5):
    out, places = b"", []

    def add(content):
        nonlocal out
        place = varint(len(out)) + varint(len(content))
        out += content + b"\0" + struct.pack("<I", crc32c(content + b"\0"))
        return place

    for start in range(0, len(entries), per_block):
        some = entries[start : start + per_block]
        places.append((some[-1][0], add(block(some))))
    footer = add(block([])) + add(block(places))
    return out + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def write(prefix, arrays, shards=1, big_endian=False, checksum=crc32c):
    """Writes `prefix`.index and its shards from arrays; bytes are a text variable."""
    entries, contents = [(b"", field(1, shards) + field(2, int(big_endian)))], [b""] * shards
    for number, name in enumerate(sorted(arrays)):
        array, shard = arrays[name], number % shards
        if isinstance(array, bytes):
            data, kind, shape = array, TEXT, b""
        else:
            array = np.asarray(array)
            data = array.astype(array.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
            shape = b"".join(field(2, field(1, size)) for size in array.shape)
            kind = TYPES[array.dtype.name]
        entry = field(1, kind) + field(2, shape) + field(3, shard)
        entry += field(4, len(contents[shard])) + field(5, len(data))
        entry += varint(6 << 3 | 5) + struct.pack("<I", checksum(data))
        entries.append((name.encode(), entry))
        contents[shard] += data
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    for shard, content in enumerate(contents):
        name = f"{prefix.name}.data-{shard:05}-of-{shards:05}"
        prefix.with_name(name).write_bytes(content)
    return prefix
