"""Hashes that decide what to redo: of settings, of files, and of the rows of a table.

The content hash of a table covers its logical values (types, validity, lengths, bytes), never its file encoding, so
that another Parquet writer, another compression or another row-group size gives the same hash. Volatile columns are
left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.files import replace_file
from storage.schemas import is_volatile

HASH_BYTES = 16


def hash_text(*parts: str) -> str:
    """128-bit hash of strings, as 32 hex digits; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_json(value: Any) -> str:
    return hash_text(canonical_json(value))


def hash_file(path: Path, cache: Path | None = None) -> str:
    """sha256 of a file. With `cache`, a file with the same inode, size, mtime and ctime isn't read a second time."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
    entry = cache / f"{hash_text(key)}.sha256" if cache else None
    if entry and entry.exists():
        return entry.read_text()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if entry:
        entry.parent.mkdir(parents=True, exist_ok=True)
        replace_file(entry, digest.hexdigest().encode())
    return digest.hexdigest()


def content_hash(table: pa.Table) -> str:
    """128-bit hash of a table's rows in their order, without its volatile columns."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    digest.update(table.num_rows.to_bytes(8, "little"))
    for field, values in zip(table.schema, table.columns, strict=True):
        if is_volatile(field):
            continue
        digest.update(f"{field.name}:{_type_name(field.type)};".encode())
        _update(digest, pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], field.type))
    return digest.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """The logical type; the name of a list's child is left out, since Parquet writers differ in it."""
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{child.name}: {_type_name(child.type)}' for child in kind)}>"
    return str(kind)


def _update(digest: Any, array: Any) -> None:
    digest.update(len(array).to_bytes(8, "little"))
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        array = array.fill_null(b"" if pa.types.is_binary(kind) else "")
        digest.update(pc.binary_length(array).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        digest.update(_string_bytes(array))
    elif pa.types.is_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        digest.update(lengths.astype("<i8").tobytes())
        _update(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _update(digest, child)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        digest.update(np.ascontiguousarray(array.drop_null().to_numpy(zero_copy_only=False)).tobytes())
    else:
        raise TypeError(f"no content hash for a column of type {kind}; extend storage/fingerprint.py")


def _string_bytes(array: Any) -> memoryview | bytes:
    """The characters of a null-free string array, end to end."""
    if len(array) == 0:
        return b""
    _, offsets, data = array.buffers()
    if data is None:
        return b""
    bounds = np.frombuffer(offsets, dtype="<i4")[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[int(bounds[0]) : int(bounds[-1])]


def combine(contents: list[str]) -> str:
    """One hash for several slices; their order does not matter."""
    return hash_text(*sorted(contents))


def file_key(path: Path, base: Path) -> str:
    """How a file is named in books and fingerprints: relative to the recipe, so that a moved project stays valid."""
    return os.path.relpath(path, base)
