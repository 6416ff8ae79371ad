"""Kernel of the number of distinct values: a theta sketch in the format of Apache DataSketches.

A sketch stores the k smallest 63-bit hashes of the values, and the next one as its limit theta. Up to k different
values, the number is exact. Dasgupta, Lang, Rhodes and Thaler (2016), "A framework for estimating stream
expression cardinalities". States are compact, ordered sketches of serial version 3, with the default seed.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from profilestream.derive.kernels.entries import ArrowArray, ArrowType, Entries, Events, Floats, Groups, Integers

Words = np.ndarray[tuple[int], np.dtype[np.uint64]]
_SEED = np.uint64(9001)
_SEED_HASH = 0x93CC
_MAX_THETA = np.uint64(2**63 - 1)
_SERIAL_VERSION, _FAMILY = 3, 3
_READ_ONLY, _COMPACT, _ORDERED, _SINGLE = 2, 8, 16, 32


@dataclass(frozen=True)
class DistinctKernel:
    """Number of distinct texts; events with negative weights count like others, empty texts do not count.

    State: BINARY; null without events.
    """

    log_nominal_entries: int = 9

    @property
    def type(self) -> ArrowType:
        return pa.binary()

    def lift(self, events: Events) -> Entries:
        """Entries are hashes, each with the largest theta."""
        counted = events.counted()
        if len(counted.groups) == 0:
            return _entries(counted.groups, np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        encoded = counted.values.cast(pa.string()).dictionary_encode()
        hashes = hash_texts(encoded.dictionary)[encoded.indices.to_numpy()]
        is_text = hashes != 0
        groups = counted.groups[is_text]
        return _entries(groups, hashes[is_text], np.full(len(groups), _MAX_THETA))

    def unpack(self, states: ArrowArray, groups: Groups) -> Entries:
        """Entries are the hashes of the sketches; one without hash has the theta of the sketch."""
        rows, hashes, thetas = _parsed(states)
        limited = np.flatnonzero(thetas < _MAX_THETA)
        return _entries(
            np.concatenate((groups.number[rows], groups.number[limited])),
            np.concatenate((hashes, np.zeros(len(limited), np.uint64))),
            np.concatenate((np.full(len(rows), _MAX_THETA), thetas[limited])),
        )

    def fold(self, entries: Entries, count: int) -> ArrowArray:
        hashes, limits = entries.columns
        thetas = np.full(count, _MAX_THETA)
        np.minimum.at(thetas, entries.groups, limits)
        is_hash = (hashes != 0) & (hashes < thetas[entries.groups])
        groups, hashes = entries.groups[is_hash], hashes[is_hash]
        order = np.lexsort((hashes, groups))
        groups, hashes = groups[order], hashes[order]
        if len(groups):
            is_new = np.append(True, (groups[1:] != groups[:-1]) | (hashes[1:] != hashes[:-1]))
            groups, hashes = groups[is_new], hashes[is_new]
        lengths = np.bincount(groups, minlength=count)
        place = np.arange(len(groups)) - (np.cumsum(lengths) - lengths)[groups]
        size = 1 << self.log_nominal_entries
        is_next = place == size
        thetas[groups[is_next]] = hashes[is_next]
        is_stored = place < size
        return _serialized(groups[is_stored], hashes[is_stored], thetas)

    def cut(self, states: ArrowArray) -> ArrowArray:
        return states

    def read(self, states: ArrowArray, factors: Floats) -> ArrowArray:
        """The estimate as int64; exact up to 2^log_nominal_entries, 0 for null."""
        rows, _, thetas = _parsed(states)
        lengths = np.bincount(rows, minlength=len(states))
        return pa.array(np.floor(lengths / (thetas / 2.0**63) + 0.5).astype(np.int64))


def _entries(groups: Integers, hashes: Words, thetas: Words) -> Entries:
    return Entries(groups, (hashes, thetas))


def _serialized(groups: Integers, hashes: Words, thetas: Words) -> ArrowArray:
    """One sketch per theta; null without hashes. The hashes are in order of group and size."""
    count = len(thetas)
    lengths = np.bincount(groups, minlength=count)
    is_estimate = thetas < _MAX_THETA
    is_single = (lengths == 1) & ~is_estimate
    has_state = (lengths > 0) | is_estimate
    longs = np.where(is_estimate, 3, np.where(is_single, 1, 2))
    sizes = np.where(has_state, longs + lengths, 0)
    starts = np.cumsum(sizes) - sizes
    words = np.zeros(int(sizes.sum()), np.uint64)
    rows = np.flatnonzero(has_state)
    flags = _READ_ONLY | _COMPACT | _ORDERED | np.where(is_single, _SINGLE, 0)
    # Little endian: preamble longs, serial version, family, two unused bytes, flags, hash of the seed.
    first = longs | (_SERIAL_VERSION << 8) | (_FAMILY << 16) | (flags << 40)
    words[starts[rows]] = first.astype(np.uint64)[rows] | np.uint64(_SEED_HASH << 48)
    with_count = np.flatnonzero(has_state & ~is_single)
    probability = int(np.float32(1.0).view(np.uint32))
    words[starts[with_count] + 1] = (lengths[with_count] | (probability << 32)).astype(np.uint64)
    with_theta = np.flatnonzero(is_estimate)
    words[starts[with_theta] + 2] = thetas[with_theta]
    place = np.arange(len(groups)) - (np.cumsum(lengths) - lengths)[groups]
    words[starts[groups] + longs[groups] + place] = hashes
    offsets = np.append(starts, sizes.sum()).astype(np.int32) * 8
    data = words.astype("<u8").tobytes()
    validity = pa.array(has_state).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), count, [validity, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)])


def _parsed(states: ArrowArray) -> tuple[Integers, Words, Words]:
    """State and value of each hash, and the theta of each state.

    Raises:
        ValueError: a state is not a compact sketch of serial version 3 with the default seed.
    """
    thetas = np.full(len(states), _MAX_THETA)
    rows = np.flatnonzero(states.is_valid().to_numpy(zero_copy_only=False))
    if len(rows) == 0:
        return rows, np.zeros(0, np.uint64), thetas
    _, offset_buffer, data = states.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[states.offset : states.offset + len(states) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8)
    starts = offsets[rows]
    first = _words(content, starts)
    version, seed_hash = (first >> np.uint64(8)) & np.uint64(0xFF), first >> np.uint64(48)
    if (version != _SERIAL_VERSION).any() or (seed_hash != _SEED_HASH).any():
        raise ValueError(
            f"a sketch has serial version {version.max()} or another seed; derive the table again: --rebuild"
        )
    longs = (first & np.uint64(0x3F)).astype(np.int64)
    lengths = (offsets[rows + 1] - starts) // 8 - longs
    limited = np.flatnonzero(longs == 3)
    thetas[rows[limited]] = _words(content, starts[limited] + 16)
    places = np.repeat(starts + 8 * longs, lengths)
    index = np.arange(len(places)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(rows, lengths), _words(content, places + 8 * index), thetas


def _words(content: np.ndarray, starts: Integers) -> Words:
    """The 64-bit numbers at these bytes."""
    words: Words = content[starts[:, None] + np.arange(8)].view("<u8").ravel()
    return words


def hash_texts(texts: ArrowArray) -> Words:
    """The 63-bit hash of each text, as DataSketches computes it: MurmurHash3 of its UTF-8 bytes; 0 if it is empty."""
    if len(texts) == 0:
        return np.zeros(0, np.uint64)
    _, offset_buffer, data = texts.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    hashes = np.zeros(len(texts), np.uint64)
    for length in np.unique(lengths[lengths > 0]):
        rows = np.flatnonzero(lengths == length)
        hashes[rows] = murmur3(content[offsets[rows][:, None] + np.arange(length)], _SEED) >> np.uint64(1)
    return hashes


def murmur3(rows: np.ndarray, seed: np.uint64) -> Words:
    """The first 64 bits of MurmurHash3 x64 128 (Appleby 2011) of each row of bytes."""
    count, length = rows.shape
    padded = np.zeros((count, -(-length // 16) * 16), np.uint8)
    padded[:, :length] = rows
    words = padded.view("<u8").astype(np.uint64)
    c1, c2 = np.uint64(0x87C37B91114253D5), np.uint64(0x4CF5AD432745937F)
    h1, h2 = np.full(count, seed), np.full(count, seed)
    with np.errstate(over="ignore"):
        for block in range(length // 16):
            h1 = h1 ^ (_rotated(words[:, 2 * block] * c1, 31) * c2)
            h1 = (_rotated(h1, 27) + h2) * np.uint64(5) + np.uint64(0x52DCE729)
            h2 = h2 ^ (_rotated(words[:, 2 * block + 1] * c2, 33) * c1)
            h2 = (_rotated(h2, 31) + h1) * np.uint64(5) + np.uint64(0x38495AB5)
        if length % 16:
            h2 = h2 ^ (_rotated(words[:, -1] * c2, 33) * c1)
            h1 = h1 ^ (_rotated(words[:, -2] * c1, 31) * c2)
        h1, h2 = h1 ^ np.uint64(length), h2 ^ np.uint64(length)
        h1 = h1 + h2
        h2 = h2 + h1
        result: Words = _finished(h1) + _finished(h2)
    return result


def _rotated(words: Words, bits: int) -> Words:
    return (words << np.uint64(bits)) | (words >> np.uint64(64 - bits))


def _finished(words: Words) -> Words:
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        words = (words ^ (words >> np.uint64(33))) * factor
    result: Words = words ^ (words >> np.uint64(33))
    return result
