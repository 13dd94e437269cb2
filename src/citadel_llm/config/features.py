"""Feature flags: what a site tries for a while, who answers for it, and until when."""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from citadel_llm.config.errors import Problem
from citadel_llm.config.parts import Part

if TYPE_CHECKING:
    from citadel_llm.config.layers import Layers

FeatureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class Feature(Part):
    """A feature flag. It is temporary: at its end it is decided what it turns on, and the flag goes."""

    enabled: bool
    """Whether what it stands for is on."""
    owner: Annotated[str, Field(min_length=1, max_length=128)]
    """Who answers for it, and decides at its end."""
    expires: datetime.date
    """The last day on which it may be deployed. What runs then goes on."""
    purpose: str = ""
    """What is tried, and what for."""


def expired(features: Mapping[str, Feature], today: datetime.date, layers: "Layers") -> list[Problem]:
    """The flags whose last day has been, each with where it was set and what to do."""
    return [
        Problem(
            str(layers.origin(("features", name, "expires")) or ""),
            f"features.{name}.expires",
            f"was on {feature.expires}, and {feature.owner} answers for it",
            "take the flag out, or give it a later day",
        )
        for name, feature in features.items()
        if feature.expires < today
    ]
