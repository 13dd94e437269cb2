"""The settings of the models on demand: how long their clients wait, and how long each has its place."""

from typing import Annotated

from pydantic import Field

from citadel_llm.config.parts import Part, Seconds


class Residency(Part):
    """Models on demand: when they are brought up, and when they make room for others."""

    wait_seconds: Seconds = 300.0
    """How long a request may wait for its model to be brought up. One that would wait longer is told at once
    when to come again."""
    comment_seconds: Seconds = 5.0
    """How often a client that waits so for a stream is sent a comment (SSE), so that neither it nor a proxy
    takes the connection for dead."""
    minimum_stay_seconds: Seconds = 30.0
    """For how long a model that was brought up keeps its place, whoever else wants it; no longer than coming
    back takes."""
    patience_seconds: Seconds = 60.0
    """After how long a model that is waited for gets its place whatever it costs the others: what is in its
    way takes no more requests, finishes those it has, and goes."""
    retry_seconds: Seconds = 30.0
    """For how long a model that did not come up is not tried again; doubled each time."""
    retry_max_seconds: Annotated[float, Field(gt=0, le=86400)] = 900.0
    """For how long at most."""


class OnDevice(Part):
    """What one engine of a model holds on a device."""

    device: Annotated[int, Field(ge=0)]
    """The GPU's index; 0 is the host's memory on the CPU build."""
    awake_bytes: Annotated[int, Field(ge=0)]
    """What it holds while it answers, in bytes."""
    asleep_bytes: Annotated[int, Field(ge=0)] = 0
    """What stays there while it sleeps, in bytes."""


class DeviceBudget(Part):
    """What models on demand may hold of a device together."""

    device: Annotated[int, Field(ge=0)]
    """The GPU's index; 0 is the host's memory on the CPU build."""
    bytes: Annotated[int, Field(ge=0)]
    """What is left beside the models that are always awake, in bytes."""


class OnDemandBudget(Part):
    """The memory in which models on demand take turns. Citadel alone writes it."""

    devices: tuple[DeviceBudget, ...] = ()
    """What there is of each device."""
    host_bytes: Annotated[int, Field(ge=0)] = 0
    """What sleeping models may hold of the host's memory together, in bytes."""
