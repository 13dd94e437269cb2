"""A message whose head is, but for the length of its body, the one before it again.

Clients and engines keep their connections and say nearly the same of every message. What a parser made of a
head follows from its bytes alone: where they come again, it need not read them again. All else goes to the
parser: another head, a message in several pieces or with another behind it, one without a length.
"""

import re
from typing import Generic, TypeVar

_LENGTH_LINE = re.compile(rb"\r\ncontent-length: ?(\d{1,9})\r\n", re.IGNORECASE)
_MOST_DIGITS = 9
# Each client's connection remembers one.
_LONGEST = 4096

Meaning = TypeVar("Meaning")


class KnownHead(Generic[Meaning]):
    """A head that the parser has read.

    Attributes:
        meaning: What it says, apart from the length.
    """

    __slots__ = ("_after", "_before", "meaning")

    def __init__(self, before: bytes, after: bytes, meaning: Meaning) -> None:
        self._before = before
        self._after = after
        self.meaning = meaning

    @classmethod
    def of(cls, data: bytes, meaning: Meaning) -> "KnownHead[Meaning] | None":
        """The head with which `data` begins; None for one that is not worth remembering.

        Args:
            data: As it came, from the message's first byte on. The parser has accepted the head, so that
                there are not two lengths in it.
            meaning: What it says, apart from the length.
        """
        end = data.find(b"\r\n\r\n", 0, _LONGEST)
        length = _LENGTH_LINE.search(data, 0, end + 2) if end > 0 else None
        if length is None:
            return None
        return cls(data[: length.start(1)], data[length.end(1) : end + 4], meaning)

    def body_of(self, data: bytes) -> bytes | None:
        """The body of a message that has this head and is whole; None when `data` is anything else."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        begin = len(before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(after, end):
            return None
        length, body = data[begin:end], end + len(after)
        if not length.isdigit() or int(length) != len(data) - body:
            return None
        return data[body:]
