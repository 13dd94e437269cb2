"""One engine at a time may start on a GPU.

vLLM measures the free memory when it starts; two that start at once on one GPU measure each other wrong. The
lock is flock(2) on a file: it goes when its holder's process does, however that ends.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

_RETRY_SECONDS = 0.5


def lock_files(directory: Path, gpus: Sequence[int]) -> list[Path]:
    """The lock files of an engine on these GPUs, in the order to take them; one of the CPU's without any."""
    return [directory / f"gpu-{index}.lock" for index in sorted(gpus)] or [directory / "cpu.lock"]


@contextlib.asynccontextmanager
async def start_lock(
    files: Sequence[Path], holder: str, on_wait: Callable[[str], None]
) -> AsyncIterator[None]:
    """Hold the locks; all takers take them in the same order, so none waits for another in a ring.

    Args:
        files: The lock files; made when they are not there.
        holder: Written into the files for the next one who waits.
        on_wait: Called, while waiting, with the name of the present holder.
    """
    with contextlib.ExitStack() as held:
        for file in files:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
            held.callback(os.close, descriptor)
            await _lock(descriptor, on_wait)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield


async def _lock(descriptor: int, on_wait: Callable[[str], None]) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait(os.pread(descriptor, 256, 0).decode(errors="replace") or "another engine")
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return
