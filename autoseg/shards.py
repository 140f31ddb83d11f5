"""One of N equal parts of a cohort, by the hash of each case's name: the same for every process, and whatever cases are added."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from autoseg.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def holds(self, case: str) -> bool:
        """Return whether a case belongs to this part; each belongs to exactly one.

        >>> [Shard(number, 3).holds("patient_7") for number in (1, 2, 3)]
        [False, True, False]
        """
        digest = hashlib.blake2b(case.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def parse_shard(text: str | None) -> Shard | None:
    """Return the part that `K/N` names; None for None.

    Raises
    ------
    UsageError : it is not a part

    >>> parse_shard("2/8")
    Shard(number=2, count=8)
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError("--shard wants K/N", found=text, expected="K from 1 to N, such as 1/8, 2/8, ... 8/8", fix="--shard 1/8")
    return Shard(int(match[1]), int(match[2]))
