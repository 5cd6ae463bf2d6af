"""Bounded frames between host and supervisor, and bounded messages between supervisor and program.

A frame is a JSON header with raw blobs behind it: two big-endian lengths, the header, the blobs. Lengths are
checked before a byte is read, so neither side can be made to allocate more than MAX_HEADER + MAX_BODY.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

MAX_HEADER = 1 << 16
MAX_BODY = 80 << 20
MAX_MESSAGE = 4 << 20  # one value of a call, encoded; also bounds what the host must parse
_LENGTHS = struct.Struct(">II")
MESSAGE_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The other side sent something that is not a frame."""


class TooLarge(Exception):
    """A value that is over MAX_MESSAGE."""


def pack(header: dict[str, Any], *blobs: bytes) -> bytes:
    """One frame as bytes."""
    head = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}).encode()
    size = sum(map(len, blobs))
    if len(head) > MAX_HEADER or size > MAX_BODY:
        raise FrameError(f"a frame holds at most {MAX_HEADER} + {MAX_BODY} bytes, got {len(head)} + {size}")
    return b"".join((_LENGTHS.pack(len(head), size), head, *blobs))


def read(read_exactly: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Read one frame; `read_exactly(n)` returns n bytes or raises."""
    head_size, body_size = _LENGTHS.unpack(read_exactly(_LENGTHS.size))
    if head_size > MAX_HEADER or body_size > MAX_BODY:
        raise FrameError(f"frame of {head_size} + {body_size} bytes is over the bound")
    try:
        header = json.loads(read_exactly(head_size))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"frame header is not JSON: {error}") from None
    body = read_exactly(body_size)
    if not isinstance(header, dict) or not isinstance(header.get("blobs"), list):
        raise FrameError("frame header is not an object with blobs")
    blobs, start = [], 0
    for size in header["blobs"]:
        if not isinstance(size, int) or size < 0:
            raise FrameError(f"blob size must be a whole number, got {size!r}")
        blobs.append(body[start : start + size])
        start += size
    if start != body_size:
        raise FrameError(f"blobs hold {start} bytes, the frame says {body_size}")
    return header, blobs


def pack_message(value: Any) -> bytes:
    """One program message: a length and JSON."""
    body = json.dumps(value, check_circular=False).encode()
    if len(body) > MAX_MESSAGE:
        raise TooLarge(f"a value holds at most {MAX_MESSAGE} bytes as JSON, got {len(body)}")
    return MESSAGE_LENGTH.pack(len(body)) + body
