"""What is wrong with a configuration, said so that it can be put right."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Tokens a minute, or a day, are no secret.
_SECRET_KEY = re.compile(r"password|passwd|secret|token(?!s_per_)|api[_-]?key", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]+@")


@dataclass(frozen=True)
class Problem:
    """One thing wrong.

    Attributes:
        where: The file and line, or the environment variable, that set the value; empty when nothing did.
        key: The setting's dotted path, `models[0].engine.dtype`.
        message: What is wrong, with the value found.
        remedy: What would do; may be empty.
    """

    where: str
    key: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        parts = [part for part in (self.where, self.key) if part]
        text = ": ".join([*parts, self.message])
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds every reason, `str()` gives one a line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def show_value(key: str, value: object) -> str:
    """Write a value as a message may show it: short, and with anything secret hidden."""
    if _SECRET_KEY.search(key.rsplit(".", 1)[-1]):
        return "<hidden>"
    text = _URL_PASSWORD.sub(r"\1:<hidden>@", repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
