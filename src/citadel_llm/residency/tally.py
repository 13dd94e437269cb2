"""What the manager keeps of each gateway and each model."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from citadel_llm.residency.messages import Asked


@dataclass(eq=False)
class Gateway:
    """A gateway's connection.

    Attributes:
        seen: The number of the last notice that it has obeyed; negative before its first word.
        models: What it has of each.
    """

    seen: int = -1
    models: Mapping[str, Asked] = field(default_factory=dict)

    def of(self, model: str) -> Asked:
        """What it has of a model."""
        return self.models.get(model, Asked())


@dataclass
class Tally:
    """What became of a model so far.

    Attributes:
        reason: Why it did not come up the last time; empty when it did.
        failures: How often it did not, in a row.
        brought_up: How often it was brought up since the manager has started.
        sent_away: How often it was stopped or put to sleep.
        last_used: When it was asked for or answered last, in the clock's time; None: not yet.
        loading: Since when an operator wants it loaded; None: none does.
        closed_by: The number of the notice by which it was closed.
    """

    reason: str = ""
    failures: int = 0
    brought_up: int = 0
    sent_away: int = 0
    last_used: float | None = None
    loading: float | None = None
    closed_by: int = 0
