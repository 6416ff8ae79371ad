"""Deletion vectors of Delta files, written without Spark.

Format: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format, with 32-bit bitmaps in the
portable format of https://github.com/RoaringBitmap/RoaringFormatSpec, without run containers. delta-rs reads vectors.
"""

import base64
import struct
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_VERSION = b"\x01"
_MAGIC = 1681511377
_NO_RUNS = 12346
_CONTAINER_VALUES = 1 << 16
_NAME_LENGTH = 20  # of an encoded UUID
_LONGEST_ARRAY = 4096  # values of a container; more are a bitmap
# Base 85 of Z85 (https://rfc.zeromq.org/spec/32) and of Python.
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"


def write(folder: Path, positions: dict[str, Positions]) -> dict[str, dict[str, Any]]:
    """Write one file with the vectors of several data files.

    Args:
        folder: of the table.
        positions: of the deleted rows by data file, ascending and without repetition; below 2^32.

    Returns:
        The field `deletionVector` of the `add` action of each data file.
    """
    name = uuid.uuid4()
    encoded_name = base64.b85encode(name.bytes).translate(bytes.maketrans(_B85, _Z85)).decode()
    content, descriptors = bytearray(_VERSION), {}
    for file, deleted in positions.items():
        data = encode(deleted)
        descriptors[file] = {
            "storageType": "u",
            "pathOrInlineDv": encoded_name,
            "offset": len(content),
            "sizeInBytes": len(data),
            "cardinality": len(deleted),
        }
        content += struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data))
    (folder / f"deletion_vector_{name}.bin").write_bytes(content)
    return descriptors


def file_name(descriptor: dict[str, Any] | None) -> str | None:
    """The file of a vector, relative to the table; null without a vector, or if the vector is in the log itself."""
    if descriptor is None or descriptor["storageType"] != "u":
        return None
    folder, encoded = descriptor["pathOrInlineDv"][:-_NAME_LENGTH], descriptor["pathOrInlineDv"][-_NAME_LENGTH:]
    name = uuid.UUID(bytes=base64.b85decode(encoded.encode().translate(bytes.maketrans(_Z85, _B85))))
    return f"{folder}/deletion_vector_{name}.bin" if folder else f"deletion_vector_{name}.bin"


def encode(positions: Positions) -> bytes:
    """The bitmap of positions, which are ascending and below 2^32."""
    if not len(positions):
        return struct.pack("<iq", _MAGIC, 0)
    high, starts = np.unique(positions // _CONTAINER_VALUES, return_index=True)
    groups = np.split(positions % _CONTAINER_VALUES, starts[1:])
    containers = [_container(low) for low in groups]
    header = struct.pack("<II", _NO_RUNS, len(containers))
    header += np.stack([high, [len(low) - 1 for low in groups]], axis=1).astype("<u2").tobytes()
    first = len(header) + 4 * len(containers)
    offsets = first + np.cumsum([0, *map(len, containers[:-1])])
    bitmap = header + offsets.astype("<u4").tobytes() + b"".join(containers)
    return struct.pack("<iqi", _MAGIC, 1, 0) + bitmap


def _container(low: Positions) -> bytes:
    if len(low) <= _LONGEST_ARRAY:
        return low.astype("<u2").tobytes()
    bits = np.zeros(_CONTAINER_VALUES, bool)
    bits[low] = True
    return np.packbits(bits, bitorder="little").tobytes()


def read(table: DeltaTable) -> dict[str, Positions]:
    """The positions of the deleted rows by name of the data file; files without a vector are left out."""
    vectors = pa.RecordBatchReader.from_stream(table.deletion_vectors()).read_all()
    masks = (one.values.to_numpy(zero_copy_only=False) for one in vectors["selection_vector"])
    paths = map(str, vectors["filepath"].to_pylist())
    return {path.rsplit("/", 1)[-1]: np.flatnonzero(~mask) for path, mask in zip(paths, masks, strict=True)}
