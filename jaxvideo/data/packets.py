"""The packets of a video stream, and the rule that decides if each of them is one frame.

Demuxing takes 1 to 3 ms for a video of ten seconds, decoding fifty times as long. The frame table
is therefore built from packets where this is provably the same, and otherwise by decoding the
whole video once: `doubt` is the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Container formats with an index that leads to the requested key frame. In others, above all MPEG
# streams, a seek may end at a frame whose reference frames the decoder lacks.
INDEXED = ("mov", "matroska", "avi", "flv")

# Codecs with inter prediction in which a packet of the formats above is one frame. Intra-only
# codecs are not listed; all of them are of this kind.
_ONE_FRAME = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "msmpeg4v2", "msmpeg4v3", "h263")

# Start code of a frame of MPEG-4 part 2 (VOP). The two bits after it are the type, I, P, B or S.
_VOP = b"\0\0\1\xb6"
_I, _B = 0, 2

# User data of an MPEG-4 header by which decoders recognize a packed bitstream; without it, they
# ignore a second frame in a packet.
_PACKED = re.compile(rb"\x00\x00\x01\xb2DivX\d+(Build|b)\d+p")

# An MPEG-4 packet of at most this size may be a placeholder without a picture (`vop_coded` is 0,
# ISO/IEC 14496-2, 6.2.5), in a packed bitstream or where the encoder has dropped a frame.
_PLACEHOLDER_BYTES = 16


class Packet(NamedTuple):
    """The fields of a packet that the frame table needs, without its data.

    A named tuple, because it is created for every packet of every video that is opened.

    Attributes:
      pts, dts, duration: times in units of the stream's time base; pts and dts may be None.
      size: bytes.
      key: True if the container calls it a key frame.
      corrupt: True if FFmpeg marks it as corrupt.
      discard: True if an edit list hides its frame.
      frames: 1; 0 if the packet has only a hidden frame; 2 if its header states that packets may
        contain two frames (packed bitstream).
      kind: type of the first VOP, of the first two packets of MPEG-4 part 2 and its key frames;
        otherwise None.
    """

    pts: int | None
    dts: int | None
    duration: int
    size: int
    key: bool
    corrupt: bool
    discard: bool
    frames: int = 1
    kind: int | None = None

    @property
    def time(self) -> int | None:
        """Presentation time, or decoding time if there is none."""
        return self.dts if self.pts is None else self.pts

    @property
    def end(self) -> int:
        """Time at which the frame ends."""
        return (self.time or 0) + self.duration


def reader(codec: str) -> Callable[[Any], Packet]:
    """Returns a function that reads the fields of PyAV packets of a codec (canonical name)."""
    inspect, seen = _INSPECT.get(codec), 0

    def read(packet: Any) -> Packet:
        nonlocal seen
        seen += 1
        # MPEG-4 has headers before key frames, and only the types of the first two frames matter.
        needed = codec != "mpeg4" or seen <= 2 or packet.is_keyframe
        frames, kind = inspect(packet) if inspect and needed and packet.size else (1, None)
        return Packet(
            packet.pts,
            packet.dts,
            packet.duration or 0,
            packet.size,
            packet.is_keyframe,
            packet.is_corrupt,
            packet.is_discard,
            frames,
            kind,
        )

    return read


def doubt(container: Any, stream: Any, packets: Sequence[Packet]) -> str:
    """Returns why frames must be found by decoding; empty if every packet is one frame.

    Every packet is one frame, with the packet's time, if all of these hold:

    - The container is MP4/MOV, Matroska/WebM, AVI or FLV. MPEG streams contain single fields, raw
      streams have no times.
    - The codec is intra-only, or H.264, H.265, VP8, VP9, AV1, MPEG-4 part 2, MS MPEG-4 or H.263.
    - The stream begins with a key frame, and no frame is shown before it: decoders drop frames
      whose references are missing.
    - Frames that an edit list hides are at the beginning or at the end.
    - Each packet has its own presentation time. In AVI, which has none, the codec must not
      reorder frames, except MPEG-4 part 2, whose frame types are read.
    - MPEG-4 part 2 is not packed, that is, its packets never contain two frames, and no packet is a
      placeholder. No packet of VP8 or VP9 contains only a hidden frame.

    Args:
      container, stream: PyAV objects.
      packets: the complete packets with data, in the order of the file.
    """
    kind, codec = container.format.name.split(",")[0], stream.codec_context
    name = codec.codec.canonical_name  # the decoder of AV1 is called libdav1d
    if kind not in INDEXED:
        return f"{kind} has no index of frames"
    if name not in _ONE_FRAME and not codec.codec.intra_only:
        return f"{name} is not known to have one frame per packet"
    if name == "mpeg4" and (why := _mpeg4_doubt(packets, codec.extradata or b"")):
        return why
    if any(packet.frames == 0 for packet in packets):
        return "hidden frames"
    if not packets[0].key and not codec.codec.intra_only:
        return "it begins between key frames"
    if kind == "avi":
        reorders = codec.has_b_frames and name != "mpeg4"
        return f"AVI does not store the order of {name}'s frames" if reorders else ""
    return _times_doubt(packets)


def is_packed(packets: Sequence[Packet]) -> bool:
    """True for a packed bitstream of MPEG-4 part 2 (DivX), in which a packet has two frames."""
    return any(packet.frames > 1 for packet in packets)


def _mpeg4_doubt(packets: Sequence[Packet], extradata: bytes) -> str:
    if is_packed(packets) or _PACKED.search(extradata):
        return "packed bitstream"
    if any(packet.frames != 1 or packet.size <= _PLACEHOLDER_BYTES for packet in packets):
        return "placeholders of frames that the encoder has dropped"
    if packets[0].kind != _I:
        return "it begins between key frames"
    if len(packets) > 1 and packets[1].kind == _B:
        return "B-frames without reference at the beginning"
    return ""


def _times_doubt(packets: Sequence[Packet]) -> str:
    times = [packet.pts for packet in packets]
    if None in times or len(set(times)) != len(times):
        return "packets without their own time"
    shown = [packet.pts for packet in packets if not packet.discard]
    hidden = [packet.pts for packet in packets if packet.discard]
    if not shown:
        return "an edit list that hides all packets"
    if min(shown) < packets[0].pts:  # type: ignore[operator]
        return "frames without reference at the beginning"
    first, last = min(shown), max(shown)  # type: ignore[type-var]
    if any(first < time < last for time in hidden):  # type: ignore[operator]
        return "an edit list with several parts"
    return ""


def _inspect_mpeg4(packet: Any) -> tuple[int, int | None]:
    view, first, head = memoryview(packet), 0, b""
    if view[: len(_VOP)] != _VOP:
        data = bytes(view)
        first = data.find(_VOP)
        head = data[: max(first, 0)]
    if first < 0 or first + len(_VOP) >= len(view):
        return 0, None
    return 2 if _PACKED.search(head) else 1, view[first + len(_VOP)] >> 6


def _inspect_vp8(packet: Any) -> tuple[int, None]:
    return memoryview(packet)[0] >> 4 & 1, None  # show_frame, RFC 6386, 9.1


def _inspect_vp9(packet: Any) -> tuple[int, None]:
    data = memoryview(packet)
    # VP9 bitstream, 6.2: marker, profile (2 bits), [reserved], show_existing_frame, frame_type,
    # show_frame. Annex B: a superframe, which ends with a byte 110xxxxx, holds hidden frames too.
    shift = 1 if data[0] >> 4 & 3 == 3 else 0
    shown = data[0] >> (3 - shift) & 1 or data[0] >> (1 - shift) & 1 or data[-1] >> 5 == 6
    return int(shown), None


_INSPECT: dict[str, Callable[[Any], tuple[int, int | None]]] = {
    "mpeg4": _inspect_mpeg4,
    "vp8": _inspect_vp8,
    "vp9": _inspect_vp9,
}
