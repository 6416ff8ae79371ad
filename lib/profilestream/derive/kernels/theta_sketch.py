"""Theta sketches in the format of Apache DataSketches: compact and ordered, serial version 3.

A sketch with k nominal entries contains the k smallest distinct hashes of the values and, as theta, the next larger
one; with at most k distinct values, theta is 2^63 - 1 and the number is exact. So the sketch of a union follows from
the sketches of the parts. Dasgupta, Lang, Rhodes and Thaler (2016), "A framework for estimating stream expression
cardinalities". A hash is the upper 63 bits of the first half of MurmurHash3 (128 bits, seed 9001) of the UTF-8 bytes.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from profilestream.derive.kernels.kernel import (
    Array,
    Events,
    FixedSize,
    Floats,
    Ints,
    StoredStates,
    entries_of,
    ints,
    positions,
    pyarrow,
)

SEED = 9001
NO_LIMIT = 2**63 - 1
_COMPACT_FAMILY, _SERIAL_VERSION = 3, 3
_EMPTY, _READ_ONLY_ORDERED = 0x04, 0x1A  # flags; the second: read-only, compact and ordered
_C1, _C2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
_Words = NDArray[np.uint64]


@dataclass(frozen=True)
class DistinctKernel(FixedSize):
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
        counts, thetas, hashes = deserialize(rows.states)
        return entries_of(np.repeat(rows.groups, counts), hash=hashes, theta=np.repeat(thetas, counts))

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
        return serialize(groups, hashes, thetas)

    def read(self, states: Array, factors: Floats) -> Array:
        """BIGINT; exact up to k, 0 without events."""
        is_present = states.is_valid()
        counts, thetas, _ = deserialize(states.filter(is_present))
        estimates = np.zeros(len(states), np.int64)
        estimates[is_present.to_numpy(zero_copy_only=False)] = (counts * (2.0**63 / thetas) + 0.5).astype(np.int64)
        return pa.array(estimates)


def serialize(groups: Ints, hashes: Ints, thetas: Ints) -> Array:
    """The sketches of groups, BINARY; null for a group without hashes.

    Args:
        groups: of each hash, ascending.
        hashes: distinct and ascending in a group, below its theta.
        thetas: by group.
    """
    counts = np.bincount(groups, minlength=len(thetas))
    is_limited = thetas < NO_LIMIT
    header = np.where(is_limited, 3, np.where(counts > 1, 2, 1))
    lengths = np.where(counts > 0, header + counts, 0)
    offsets = np.append(0, np.cumsum(lengths))
    words = np.zeros(offsets[-1], np.uint64)
    start = offsets[:-1]
    words[start[counts > 0]] = header[counts > 0].astype(np.uint64) + _FIRST_WORD
    is_long = (counts > 0) & (header > 1)
    words[start[is_long] + 1] = counts[is_long].astype(np.uint64) + _FULL_SAMPLING
    is_limited &= counts > 0
    words[start[is_limited] + 2] = thetas[is_limited].astype(np.uint64)
    words[(start + header)[groups] + positions(groups)] = hashes.astype(np.uint64)
    validity = pa.array(counts > 0).buffers()[1]
    data = [pyarrow.py_buffer(array) for array in ((8 * offsets).astype("<i4"), words.astype("<u8"))]
    return pyarrow.Array.from_buffers(pa.binary(), len(thetas), [validity, *data])


def deserialize(sketches: Array) -> tuple[Ints, Ints, Ints]:
    """Number of hashes and theta of each sketch, and the hashes of all sketches.

    Args:
        sketches: BINARY without nulls.

    Raises:
        ValueError: another serial version, such as 4, which Spark's theta_sketch_agg writes, or another seed.
    """
    if len(sketches) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    _, offset_buffer, data = sketches.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[sketches.offset : sketches.offset + len(sketches) + 1]
    content = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    start = (offsets[:-1] - offsets[0]).astype(np.int64)
    preamble = content[start[:, None] + np.arange(8)].astype(np.int64)  # no sketch is shorter
    version, family, flags = preamble[:, 1], preamble[:, 2], preamble[:, 5]
    if (is_foreign := (version != _SERIAL_VERSION) | (family != _COMPACT_FAMILY)).any():
        first = int(is_foreign.argmax())
        raise ValueError(
            f"theta sketch has serial version {version[first]} and family {family[first]}, expected {_SERIAL_VERSION} "
            f"and {_COMPACT_FAMILY}; rebuild the table that contains it"
        )
    is_empty = flags & _EMPTY != 0
    seed_hash = preamble[:, 6] + 256 * preamble[:, 7]
    if (is_foreign := (seed_hash != _SEED_HASH) & ~is_empty).any():
        raise ValueError(
            f"theta sketch has seed hash {seed_hash[is_foreign.argmax()]}, expected {_SEED_HASH}; rebuild its table"
        )
    words, first_word = content.view("<i8"), start // 8  # the length of a sketch is a multiple of 8
    counts = np.where(is_empty, 0, 1)
    is_long = ~is_empty & (preamble[:, 0] > 1)
    counts[is_long] = words[first_word[is_long] + 1] & 0xFFFFFFFF
    thetas = np.full(len(sketches), NO_LIMIT)
    is_limited = ~is_empty & (preamble[:, 0] > 2)
    thetas[is_limited] = words[first_word[is_limited] + 2]
    groups = np.repeat(np.arange(len(sketches)), counts)
    return counts, thetas, words[(first_word + preamble[:, 0])[groups] + positions(groups)].astype(np.int64)


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
# The first word of a sketch without the length of its header, and the sampling probability 1.0 of the second word.
_FIRST_WORD = np.uint64(_SERIAL_VERSION << 8 | _COMPACT_FAMILY << 16 | _READ_ONLY_ORDERED << 40 | _SEED_HASH << 48)
_FULL_SAMPLING = np.uint64(0x3F800000 << 32)
