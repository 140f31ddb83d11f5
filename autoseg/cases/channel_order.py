"""Which file is which channel: by the head of its column or the words of its name; by order alone where there is no name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg import images
from autoseg.cases.names import MODALITY_OF, are_named, modality_of
from autoseg.errors import MissingChannel

_SAME = {  # further spellings of sequences, as file names have them
    "t1w": "t1", "t1n": "t1", "mprage": "t1", "t1gd": "t1ce", "t1c": "t1ce", "t1post": "t1ce", "t1km": "t1ce", "t1wce": "t1ce",
    "t2w": "t2", "t2f": "flair", "t2flair": "flair", "mri": "mr",
}  # fmt: skip
_GENERIC = ("mr", "ct", "pet")  # kinds of scanner: a sequence may go by them
_SEQUENCES = {word for word, modality in MODALITY_OF.items() if modality in ("MR", "CT", "PET") and word not in ("cor", "pd", "hu", "echo")}


def order_of_heads(heads: Sequence[str], channels: Sequence[str], *, file: Path) -> tuple[int, ...]:
    """Return for each channel of the model the number of the column that holds it.

    Parameters
    ----------
    heads : names that the input gives its channels, in its order
    channels : of the model, in its order

    Raises
    ------
    MissingChannel : other names, or more or fewer of them
    """
    theirs, ours = [_spelled(name) for name in heads], [_spelled(name) for name in channels]
    if len(set(theirs)) < len(theirs) or len(set(ours)) < len(ours):  # T1 and T1w are two channels here
        theirs, ours = [_squeezed(name) for name in heads], [_squeezed(name) for name in channels]
    if sorted(theirs) == sorted(ours) and len(set(ours)) == len(ours):
        return tuple(theirs.index(name) for name in ours)
    unnamed = not are_named(heads) or not are_named(channels)
    if len(heads) == len(channels) and (unnamed or (len(heads) == 1 and not _differ(heads[0], channels[0]))):
        return tuple(range(len(channels)))
    raise MissingChannel(
        "the channels are not those of the model",
        file=file,
        found=", ".join(heads),
        expected=f"{', '.join(channels)} (in any order)",
        fix="call each channel as the model does, or use a model that was trained with these",
    )


def order_of_files(paths: Sequence[Path], channels: Sequence[str]) -> tuple[int, ...] | None:
    """Return for each channel the number of the file whose name (or folder) says so; None where no file says anything.

    Raises
    ------
    MissingChannel : the names contradict each other or the model
    """
    if not are_named(channels):
        return None
    named = [_channels_in(images.stem_of(path), channels) for path in paths]
    if not any(named):
        named = [_channels_in(path.parent.name, channels) for path in paths]
    orders = [*_matchings(named, len(channels))]
    if not orders:  # what all of them say, such as the name of a study, says nothing
        common = set.intersection(*named)
        named = [one - common for one in named]
        orders = [*_matchings(named, len(channels))]
    if not any(named):
        return None
    if len(orders) == 1:
        return orders[0]
    if (given := tuple(range(len(channels)))) in orders:
        return given
    raise _contradiction(paths, channels)


def contradicting(paths: Sequence[Path], channels: Sequence[str]) -> MissingChannel | None:
    """Return the error for files, in the order of the channels, of which one is named as another channel; None where all fit."""
    if not are_named(channels) or len(paths) != len(channels):
        return None
    named = [_channels_in(images.stem_of(path), channels) for path in paths]
    if not any(named):
        named = [_channels_in(path.parent.name, channels) for path in paths]
    common = set.intersection(*named)
    fits = all(index in one or not one - common - {-1} for index, one in enumerate(named))
    return None if fits else _contradiction(paths, channels)


def named_apart(paths: Sequence[Path]) -> list[str]:
    """Return the names of files, with their folders where the names alone are equal."""
    names = [path.name for path in paths]
    return names if len({*names}) == len(names) else ["/".join(path.parts[-2:]) for path in paths]


def _contradiction(paths: Sequence[Path], channels: Sequence[str]) -> MissingChannel:
    """Return the error for files whose names do not fit the channels; it lists both."""
    return MissingChannel(
        "the names of the files contradict the channels of the model",
        file=paths[0],
        found=", ".join(named_apart(paths)),
        expected=f"one file for each of {', '.join(channels)}",
        fix=f"give a CSV list with the columns case, {', '.join(channels)}, or files that end in _0000, _0001, ... in that order",
    )


@dataclass(frozen=True)
class Token:
    """The part of a file's name that says its channel."""

    channel: int
    rest: str  # the name without it


def token_of(stem: str, channels: Sequence[str]) -> Token | None:
    """Return the last part of a name that is the name of a channel.

    >>> token_of("BraTS_007_t1ce", ["FLAIR", "T1", "T1Gd", "T2"])
    Token(channel=2, rest='BraTS_007')
    """
    found = [*_tokens(stem, channels)]
    return found[-1] if found else None


def _tokens(stem: str, channels: Sequence[str]) -> Iterator[Token]:
    spellings = _spellings(channels)
    parts = re.split(r"([^0-9A-Za-z]+)", stem)  # words at even places, what separates them at odd ones
    place = 0
    while place < len(parts):
        for words in (3, 2, 1):
            end = place + 2 * words - 1
            channel = spellings.get(_spelled("".join(parts[place:end:2]))) if end <= len(parts) and all(parts[place:end:2]) else None
            if channel is not None:
                rest = "".join([*parts[: max(0, place - 1)], *parts[end if place else end + 1 :]])
                yield Token(channel, rest)
                place = end - 1
                break
        place += 2


def _spellings(channels: Sequence[str]) -> dict[str, int]:
    """Return the words that name one channel: its whole name, and those in it that no other channel has."""
    whole = {_spelled(name): index for index, name in enumerate(channels)}
    if len(whole) < len(channels):
        return {_squeezed(name): index for index, name in enumerate(channels)}
    words: dict[str, set[int]] = {}
    for index, name in enumerate(channels):
        for word in map(_spelled, re.split(r"[^0-9A-Za-z]+", name)):
            if word in _SEQUENCES:
                words.setdefault(word, set()).add(index)
    return {**{word: next(iter(owners)) for word, owners in words.items() if len(owners) == 1}, **whole}


def _channels_in(text: str, channels: Sequence[str]) -> set[int]:
    """Return the channels that a name names; -1 for a sequence that is not one of the model's."""
    found = {token.channel for token in _tokens(text, channels)}
    foreign = {word for word in map(_spelled, re.split(r"[^0-9A-Za-z]+", text)) if word in _SEQUENCES and word not in _GENERIC}
    return found or ({-1} if foreign else set())


def _matchings(named: Sequence[set[int]], channels: int) -> Iterator[tuple[int, ...]]:
    """Yield at most two ways to give each channel one file that names it, or names nothing."""
    if len(named) != channels:
        return
    stack: list[tuple[int, ...]] = [()]
    count = 0
    while stack and count < 2:
        taken = stack.pop()
        if len(taken) == channels:
            count += 1
            yield taken
            continue
        free = [index for index in range(channels) if index not in taken and (not named[index] or len(taken) in named[index])]
        stack += [(*taken, index) for index in reversed(free)]


def _differ(one: str, other: str) -> bool:
    """Whether two names of a single channel cannot mean the same: two modalities, or two sequences of one."""
    kinds = modality_of(one), modality_of(other)
    if None in kinds or kinds[0] != kinds[1]:
        return None not in kinds
    names = {_spelled(one), _spelled(other)}
    return len(names) == 2 and names <= _SEQUENCES and not names & set(_GENERIC)


def _squeezed(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())


def _spelled(name: str) -> str:
    squeezed = _squeezed(name)
    return _SAME.get(squeezed, squeezed)
