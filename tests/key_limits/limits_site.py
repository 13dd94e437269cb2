"""Keys with limits, and a clock that stands still until it is told to go on."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from citadel_llm.config.gateway import Limits
from citadel_llm.gateway.limits import Limiter
from citadel_llm.gateway.limits.limiter import Spent
from citadel_llm.store import KeyRecord


class Clock:
    """Both clocks of the limits, in seconds."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
        self.monotonic = 1000.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def key(key_id: str = "0123456789ab", **fields: Any) -> KeyRecord:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    plain = KeyRecord(id=key_id, name="laptop", owner="ada", prefix="ck-abcd", hash="0" * 64, created_at=made)
    return replace(plain, **fields)


def new_limiter(
    spent: Spent | None = None, registry: CollectorRegistry | None = None, **settings: Any
) -> Limiter:
    return Limiter(Limits(**settings), registry or CollectorRegistry(), spent)


async def eventually(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.005)
