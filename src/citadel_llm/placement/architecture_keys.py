"""Reads the keys of a config.json, and keeps what is wrong with them until all have been read."""

from collections.abc import Mapping, Sequence
from typing import Any

from .terms import PlacementError

# Far above any model, and soon read: each layer is listed.
MOST_LAYERS = 2000
_REMEDY = "compare it with the config.json that the model's makers published"


class Keys:
    """The keys of one object of a config.json.

    A wrong or missing value is noted and 1 is read in its place; `check` then raises for all of them.

    Args:
        values: The object.
        entry: Where it stands, such as `models[2].architecture`.
        defaults: What transformers' configuration class of this family fills in for keys that are absent.
        problems: Where to note; of the object above when this one is nested.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        entry: str,
        defaults: Mapping[str, Any] | None = None,
        problems: list[tuple[str, str]] | None = None,
    ) -> None:
        self.values = values
        self.entry = entry
        self.defaults = defaults or {}
        self.problems: list[tuple[str, str]] = [] if problems is None else problems

    def get(self, key: str) -> Any:
        """The value as it stands, or its family's default; none when there is neither."""
        value = self.values.get(key)
        return self.defaults.get(key) if value is None else value

    def whole(self, key: str, default: int | None = None, *, least: int = 1, most: int | None = None) -> int:
        """A whole number. Without a default, the key must be there."""
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            self.note(key, "must be set")
            return max(least, 1)
        number = self._whole(key, value, least)
        if most is not None and number > most:
            self.note(key, f"must not be above {most}, as {number} is")
            return most
        return number

    def maybe_whole(self, key: str, *, least: int = 1) -> int | None:
        """A whole number, or none when it is absent or null."""
        value = self.get(key)
        return None if value is None else self._whole(key, value, least)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.note(key, f"must be true or false, not {value!r}")
            return default
        return value

    def words(self, key: str, length: int) -> tuple[str, ...] | None:
        """A list of as many words, or none when it is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != length:
            self.note(key, f"must be a list with one word for each of the {length} layers")
            return None
        return tuple(str(word) for word in value)

    def numbers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers, empty when it is absent."""
        value = self.get(key)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or not all(type(item) is int for item in value):
            self.note(key, f"must be a list of whole numbers, not {value!r}")
            return ()
        return tuple(value)

    def inner(self, key: str, defaults: Mapping[str, Any] | None = None) -> "Keys":
        """The keys of an object inside this one; what is wrong with them is noted here."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            self.note(key, f"must be an object, not {value!r}")
            value = {}
        return Keys(value, f"{self.entry}.{key}", defaults, self.problems)

    def note(self, key: str, message: str) -> None:
        """Keep in mind that a key is wrong."""
        problem = (f"{self.entry}.{key}", message)
        if problem not in self.problems:
            self.problems.append(problem)

    def relate(self, key: str, other: str, message: str, *, holds: bool) -> None:
        """Keep in mind that two keys contradict each other; not where one of them is wrong by itself."""
        wrong = {entry for entry, _ in self.problems}
        if not holds and not wrong & {f"{self.entry}.{key}", f"{self.entry}.{other}"}:
            self.note(key, message)

    def check(self) -> None:
        """Raise for all that was wrong so far.

        Raises:
            PlacementError: Something was; it is said of the first, the others stand in its message.
        """
        if self.problems:
            (entry, message), *others = self.problems
            more = "".join(f", and {where}: {what}" for where, what in others)
            raise PlacementError(entry, message + more, _REMEDY)

    def _whole(self, key: str, value: Any, least: int) -> int:
        if type(value) is not int or value < least:
            wanted = f"above {least - 1}" if least else "of 0 or more"
            self.note(key, f"must be a whole number {wanted}, not {value!r}")
            return max(least, 1)
        return value
