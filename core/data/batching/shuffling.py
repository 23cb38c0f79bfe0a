"""A seeded permutation that is computed place by place, so that its memory does not grow with its size."""

import hashlib

import numpy as np
import numpy.typing as npt

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: int | str) -> int:
    """Makes one 64-bit key of what a random choice may depend on: a purpose, the seed, an epoch."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permuted(size: int, shuffle_key: int, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
    """Returns the values at places `start` … `stop` - 1 of a permutation of range(size).

    The values of all places are each of range(size) once. Nothing is kept between calls: a resume asks for the
    places that are left. The numbers are our own arithmetic, so that they do not change with a library.

    Source: balanced Feistel network with cycle walking, J. Black and P. Rogaway, Ciphers with Arbitrary Finite
    Domains, 2002.
    """
    stop = size if stop is None else min(stop, size)
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    values = np.arange(start, max(start, stop), dtype=np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():  # the network permutes a power of 4; a place outside the range is sent through again
        values[outside] = _network(values[outside], half_bits, shuffle_key)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _network(values: npt.NDArray[np.uint64], half_bits: int, shuffle_key: int) -> npt.NDArray[np.uint64]:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for turn in range(_ROUNDS):
        round_key = np.uint64((shuffle_key + turn * 0xD1342543DE82EF95) % (1 << 64))
        left, right = right, left ^ (_scramble(right, round_key) & mask)
    return (left << shift) | right


def _scramble(values: npt.NDArray[np.uint64], round_key: np.uint64) -> npt.NDArray[np.uint64]:
    """Mixes 64 bits. Source: the finaliser of splitmix64, Steele, Lea and Flood, OOPSLA 2014."""
    mixed = (values ^ round_key) + _MIX
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
