"""Theta sketches in the format of Apache DataSketches: compact and ordered, serial version 3.

A sketch with k nominal entries contains the k smallest distinct hashes of the values and, as theta, the next larger
one; with at most k distinct values, theta is 2^63 - 1 and the number is exact. So the sketch of a union follows from
the sketches of the parts. Dasgupta, Lang, Rhodes and Thaler (2016), "A framework for estimating stream expression
cardinalities". A hash is the upper 63 bits of the first half of MurmurHash3 (128 bits, seed 9001) of the UTF-8 bytes.
"""

import struct
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.derive.kernels.kernel import (
    Array,
    Events,
    Floats,
    Ints,
    StoredStates,
    entries_of,
    ints,
    positions,
)

SEED = 9001
NO_LIMIT = 2**63 - 1
_COMPACT_FAMILY, _SERIAL_VERSION = 3, 3
_READ_ONLY_EMPTY, _READ_ONLY_ORDERED = 0x1E, 0x1A  # read-only, compact, ordered, and empty or not
_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
_Words = NDArray[np.uint64]


@dataclass(frozen=True)
class DistinctKernel:
    """Theta sketch of the distinct strings, BINARY; null without events. Empty strings do not count, as in Spark.

    Args:
        log_nominal_entries: binary logarithm of k.
    """

    log_nominal_entries: int
    type: pa.DataType = pa.binary()

    def lift(self, events: Events) -> pa.Table:
        values = pc.if_else(pc.equal(events.values, pa.scalar("")), None, events.values)
        counted = Events(values, events.weights, events.order, events.groups).counted(weighted=False)
        encoded = counted.values.dictionary_encode()
        hashes = hash_strings(encoded.dictionary)[encoded.indices.to_numpy()]
        return entries_of(counted.groups, hash=hashes, theta=np.full(len(hashes), NO_LIMIT))

    def unpack(self, rows: StoredStates) -> pa.Table:
        rows = rows.present()
        sketches = [deserialize(sketch) for sketch in rows.states.to_pylist()]
        lengths = [len(hashes) for hashes, _ in sketches]
        hashes = np.concatenate([hashes for hashes, _ in sketches]) if sketches else np.zeros(0, np.int64)
        thetas = np.array([theta for _, theta in sketches], np.int64)
        return entries_of(np.repeat(rows.groups, lengths), hash=hashes, theta=np.repeat(thetas, lengths))

    def fold(self, entries: pa.Table, count: int) -> Array:
        groups, hashes = ints(entries["group"]), ints(entries["hash"])
        thetas = np.full(count, NO_LIMIT)
        np.minimum.at(thetas, groups, ints(entries["theta"]))
        is_below = hashes < thetas[groups]
        groups, hashes = groups[is_below], hashes[is_below]
        index = np.lexsort((hashes, groups))
        groups, hashes = groups[index], hashes[index]
        is_distinct = (np.diff(groups, prepend=-1) != 0) | (np.diff(hashes, prepend=-1) != 0)
        groups, hashes = groups[is_distinct], hashes[is_distinct]
        place, k = positions(groups), 2**self.log_nominal_entries
        thetas[groups[place == k]] = hashes[place == k]
        groups, hashes = groups[place < k], hashes[place < k]
        borders = np.searchsorted(groups, np.arange(count + 1)).tolist()
        sketches = [
            serialize(hashes[start:end], theta) if end > start else None
            for start, end, theta in zip(borders, borders[1:], thetas.tolist(), strict=False)
        ]
        return pa.array(sketches, pa.binary())

    def read(self, states: Array, factors: Floats) -> Array:
        """BIGINT; exact up to k, 0 without events."""
        return pa.array([0 if sketch is None else estimate(sketch) for sketch in states.to_pylist()], pa.int64())


def estimate(sketch: bytes) -> int:
    """The estimated number of distinct values."""
    hashes, theta = deserialize(sketch)
    return int(len(hashes) * (2.0**63 / theta) + 0.5)


def serialize(hashes: Ints, theta: int = NO_LIMIT) -> bytes:
    """The bytes of a sketch.

    Args:
        hashes: distinct, ascending, below theta.
    """
    is_limited = theta < NO_LIMIT
    preamble_longs = 3 if is_limited else 2 if len(hashes) > 1 else 1
    flags = _READ_ONLY_ORDERED if len(hashes) or is_limited else _READ_ONLY_EMPTY
    start = struct.pack("<BBBHBH", preamble_longs, _SERIAL_VERSION, _COMPACT_FAMILY, 0, flags, _SEED_HASH)
    length = struct.pack("<If", len(hashes), 1.0) if preamble_longs > 1 else b""
    limit = struct.pack("<q", theta) if is_limited else b""
    return start + length + limit + hashes.astype("<i8").tobytes()


def deserialize(sketch: bytes) -> tuple[Ints, int]:
    """The hashes and theta of a sketch.

    Raises:
        ValueError: another serial version, such as 4, which Spark's theta_sketch_agg writes, or another seed.
    """
    preamble_longs, version, family, _, flags, seed_hash = struct.unpack_from("<BBBHBH", sketch)
    if (version, family) != (_SERIAL_VERSION, _COMPACT_FAMILY):
        raise ValueError(
            f"theta sketch has serial version {version} and family {family}, expected {_SERIAL_VERSION} and "
            f"{_COMPACT_FAMILY}; rebuild the table that contains it"
        )
    if flags & 4:
        return np.zeros(0, np.int64), NO_LIMIT
    if seed_hash != _SEED_HASH:
        raise ValueError(f"theta sketch has seed hash {seed_hash}, expected {_SEED_HASH}; rebuild its table")
    count = struct.unpack_from("<I", sketch, 8)[0] if preamble_longs > 1 else 1
    theta = struct.unpack_from("<q", sketch, 16)[0] if preamble_longs > 2 else NO_LIMIT
    hashes = np.frombuffer(sketch, "<i8", count, 8 * preamble_longs).astype(np.int64)
    return hashes if flags & 16 else np.sort(hashes), theta


def hash_strings(strings: Array) -> Ints:
    """The 63-bit hash of each string."""
    data = strings.cast(pa.large_binary())
    offsets = np.frombuffer(data.buffers()[1], np.int64)[data.offset : data.offset + len(data) + 1]
    content = np.frombuffer(data.buffers()[2] or b"", np.uint8)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = np.empty(len(strings), np.int64)
    for blocks in np.unique(lengths // 16):
        rows = np.flatnonzero(lengths // 16 == blocks)
        columns = np.arange(16 * (blocks + 1))
        is_inside = columns < lengths[rows, None]
        places = np.where(is_inside, starts[rows, None] + columns, 0)
        padded = np.where(is_inside, content[places] if len(content) else 0, 0).astype(np.uint8)
        hashes[rows] = (_murmur3(padded.view("<u8"), lengths[rows], SEED) >> np.uint64(1)).astype(np.int64)
    return hashes


def _murmur3(words: _Words, lengths: Ints, seed: int) -> _Words:
    """The first half of MurmurHash3_x64_128 of each row.

    Args:
        words: the bytes of each row, padded by 1 to 16 zeros to a multiple of 16; the last block is the tail.
        lengths: number of bytes of each row without the padding.
    """
    first = np.full(len(words), seed, np.uint64)
    second = first.copy()
    for block in range(0, words.shape[1] - 2, 2):
        first ^= _mix(words[:, block], _C1, 31, _C2)
        first = (_rotate(first, 27) + second) * np.uint64(5) + np.uint64(0x52DCE729)
        second ^= _mix(words[:, block + 1], _C2, 33, _C1)
        second = (_rotate(second, 31) + first) * np.uint64(5) + np.uint64(0x38495AB5)
    second ^= _mix(words[:, -1], _C2, 33, _C1)
    first ^= _mix(words[:, -2], _C1, 31, _C2)
    first, second = first ^ lengths.astype(np.uint64), second ^ lengths.astype(np.uint64)
    first = first + second
    second = second + first
    return _finish(first) + _finish(second)


def _mix(words: _Words, before: np.uint64, bits: int, after: np.uint64) -> _Words:
    return _rotate(words * before, bits) * after


def _rotate(words: _Words, bits: int) -> _Words:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _finish(words: _Words) -> _Words:
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        words = (words ^ (words >> np.uint64(33))) * factor
    return words ^ (words >> np.uint64(33))


def _seed_hash(seed: int) -> int:
    words = np.array([[seed, 0]], np.uint64)
    return int(_murmur3(words, np.array([8]), 0)[0] & np.uint64(0xFFFF))


_SEED_HASH = _seed_hash(SEED)
