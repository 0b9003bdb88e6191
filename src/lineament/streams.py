"""Named random streams: one seed gives independent generators that any worker can make alone.

A stream is numpy's counter-based Philox generator whose 128-bit key is a hash of (seed, names), so the stream of
step 7 does not depend on whether steps 0..6 were ever drawn. Global random state is never read nor written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Streams:
    """Independent random streams below one integer `seed`, addressed by a path of names."""

    seed: int
    path: tuple[str | int, ...] = ()

    def child(self, *names: str | int) -> Streams:
        """Return the family of streams below `names`."""
        return Streams(self.seed, (*self.path, *names))

    def generator(self, *names: str | int) -> np.random.Generator:
        """Make a fresh Philox generator for this path; two calls with equal names draw equal numbers."""
        key = np.frombuffer(self._digest(*names), dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def integer(self, *names: str | int) -> int:
        """Return a 63-bit integer for libraries that take a seed (torch's weight initialisation)."""
        return int.from_bytes(self._digest(*names)[:8], "little") >> 1

    def _digest(self, *names: str | int) -> bytes:
        # Types and separators are part of the key: 1 and "1", ("a", "b") and ("ab",) must be different streams. Any
        # change here changes every random number of every run.
        text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (self.seed, *self.path, *names))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()
