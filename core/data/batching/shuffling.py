"""Seeded permutations computed element by element, with memory independent of their size.

The arithmetic is our own: an order of training data does not change with a version of NumPy, and any part of it can be
computed without the rest, as a resume needs.
"""

import hashlib

import numpy as np
import numpy.typing as npt

_ROUNDS = 6  # of the Feistel network; 4 are the minimum for a permutation that looks random
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of splitmix64


def key(*parts: int | str) -> int:
    """Returns a 64-bit key of all that a random choice may depend on: a purpose, the seed, an epoch."""
    # repr keeps parts apart: ("a", "bc") is not ("ab", "c"), and 1 is not "1".
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permuted(size: int, shuffle_key: int, start: int = 0, stop: int | None = None) -> npt.NDArray[np.int64]:
    """Returns the elements `start` … `stop` - 1 of a permutation of range(size).

    Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains (balanced Feistel network with cycle walking).
    """
    stop = size if stop is None else min(stop, size)
    # The smallest power of 4 that holds `size` is at most 4 times as large: at most 4 walks on average.
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    values = np.arange(start, max(start, stop), dtype=np.uint64)
    outside = np.ones(len(values), dtype=bool)
    # Cycle walking: the network permutes a range of a power of 4; values outside `size` go through it again.
    while outside.any():
        values[outside] = _network(values[outside], half_bits, shuffle_key)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _network(values: npt.NDArray[np.uint64], half_bits: int, shuffle_key: int) -> npt.NDArray[np.uint64]:
    """Permutes numbers of 2 · `half_bits` bits: each round XORs one half with a hash of the other."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for round_number in range(_ROUNDS):
        # Any odd constant would do; this is a multiplier of Steele and Vigna 2021 for 64-bit congruential generators.
        round_key = np.uint64((shuffle_key + round_number * 0xD1342543DE82EF95) % (1 << 64))
        left, right = right, left ^ (_scramble(right, round_key) & mask)
    return (left << shift) | right


def _scramble(values: npt.NDArray[np.uint64], round_key: np.uint64) -> npt.NDArray[np.uint64]:
    """Hashes 64 bits.

    Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators (finalizer of splitmix64).
    """
    mixed = (values ^ round_key) + _GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
