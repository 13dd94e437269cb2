import asyncio
from pathlib import Path

import pytest

from citadel_llm.services.engine.start_lock import lock_files, start_lock


@pytest.mark.parametrize(
    ("gpus", "names"),
    [((), ["cpu.lock"]), ((0,), ["gpu-0.lock"]), ((3, 1), ["gpu-1.lock", "gpu-3.lock"])],
)
def test_the_files_are_taken_in_one_order(gpus: tuple[int, ...], names: list[str]) -> None:
    assert [file.name for file in lock_files(Path("/locks"), gpus)] == names


async def test_the_second_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    order: list[str] = []
    waited: list[str] = []
    first_holds = asyncio.Event()

    async def take(name: str, gpus: tuple[int, ...]) -> None:
        async with start_lock(lock_files(tmp_path, gpus), name, waited.append):
            order.append(f"{name} in")
            first_holds.set()
            await asyncio.sleep(0.1)
            order.append(f"{name} out")

    first = asyncio.create_task(take("one", (0, 1)))
    await first_holds.wait()
    await asyncio.gather(first, take("two", (1, 2)))
    assert order == ["one in", "one out", "two in", "two out"]
    assert set(waited) == {"one"}


async def test_different_gpus_do_not_wait(tmp_path: Path) -> None:
    def nobody(holder: str) -> None:
        raise AssertionError(f"waited for {holder}")

    async with (
        start_lock(lock_files(tmp_path, (0,)), "one", nobody),
        start_lock(lock_files(tmp_path, (1,)), "two", nobody),
    ):
        pass


async def test_a_lock_that_was_waited_for_in_vain_is_given_back(tmp_path: Path) -> None:
    """Cut while waiting for the second of two, the first is free again."""
    files = lock_files(tmp_path, (0, 1))
    async with start_lock(files[1:], "other", print):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), start_lock(files, "cut", lambda _: None):
                raise AssertionError("got it")
        async with asyncio.timeout(0.2), start_lock(files[:1], "third", lambda _: None):
            pass
