"""What the benchmarks' commands share: how they tell where they are, and what stops them."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]
# What a shell says of a program that SIGINT ended.
INTERRUPTED = 130


def narrator() -> Say:
    """What tells on stderr where the run is, and after how many seconds from now."""
    began = time.monotonic()

    def say(words: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.1f} s] {words}\n")

    return say


def when_interrupted(do: Callable[[], object]) -> None:
    """Do this, in the running loop, when somebody wants the program to end, or closes its terminal."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, do)
