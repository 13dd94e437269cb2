"""With real processes: a family of three generations that does not end by itself."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from citadel_llm.services.engine.process_group import ProcessGroup

# Prints the ids of itself and of its child, which ignores polite requests.
FAMILY = textwrap.dedent(
    """
    import os, signal, subprocess, sys, time
    deaf = "import signal, time; signal.signal(15, 1); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf])
    print(os.getpid(), child.pid, flush=True)
    time.sleep(60)
    """
)

SUPERVISOR = textwrap.dedent(
    """
    import asyncio, sys
    from citadel_llm.services.engine.process_group import ProcessGroup

    async def main():
        command = [sys.executable, "-c", sys.argv[1]]
        group = await ProcessGroup.start(command, {}, lambda line: print(line, flush=True))
        await group.wait()

    asyncio.run(main())
    """
)


def all_gone(pids: list[int], within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        living = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not living:
            return True
        time.sleep(0.02)
    return False


async def first_line(lines: list[str]) -> str:
    async with asyncio.timeout(10):
        while not lines:  # noqa: ASYNC110 - a callback fills it
            await asyncio.sleep(0.01)
    return lines[0]


def test_nothing_outlives_a_supervisor_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, FAMILY], stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout
        family = [int(pid) for pid in supervisor.stdout.readline().split()]
        assert len(family) == 2
        assert all(psutil.pid_exists(pid) for pid in family)
        supervisor.kill()
        assert all_gone(family)


async def test_what_the_first_process_leaves_behind_is_killed_with_the_group() -> None:
    lines: list[str] = []
    group = await ProcessGroup.start([sys.executable, "-c", FAMILY], {}, lines.append)
    family = [int(pid) for pid in (await first_line(lines)).split()]
    os.kill(family[0], signal.SIGKILL)
    assert await group.wait() == -signal.SIGKILL
    assert psutil.pid_exists(family[1])
    await group.kill()
    assert all_gone(family)


async def test_its_lines_and_its_environment() -> None:
    lines: list[str] = []
    program = (
        r"import os,sys; print('50%\r100%\n\nend', sorted(os.environ)); sys.stderr.write('last'); sys.exit(7)"
    )
    group = await ProcessGroup.start([sys.executable, "-Ic", program], {"ONLY": "this"}, lines.append)
    assert await group.wait() == 7
    await group.kill()
    assert lines[:2] == ["50%", "100%"]
    assert lines[2].startswith("end ['")
    assert "ONLY" in lines[2]
    assert "PATH" not in lines[2]
    assert lines[3] == "last"


async def test_a_line_without_an_end_is_cut() -> None:
    lines: list[str] = []
    group = await ProcessGroup.start([sys.executable, "-c", "print('x' * 200_000)"], {}, lines.append)
    await group.wait()
    await group.kill()
    assert sum(map(len, lines)) <= 200_000
    assert max(map(len, lines)) <= 16 * 1024


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(FileNotFoundError):
        await ProcessGroup.start([str(tmp_path / "nothing")], {}, print)
    assert {child.pid for child in psutil.Process().children()} == before
