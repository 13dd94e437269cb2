"""Fixtures for the tests of limits; limits_site.py has what they give."""

import pytest

from .limits_site import Clock

MODULES = ("at_once", "budget", "exchange", "grant", "key_limits", "limiter", "minute", "windows")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in MODULES:
        module = f"citadel_llm.gateway.limits.{name}"
        monkeypatch.setattr(f"{module}.monotonic", lambda: clock.monotonic, raising=False)
        monkeypatch.setattr(f"{module}.wall_clock", lambda: clock.wall, raising=False)
    return clock
