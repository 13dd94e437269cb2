"""The steps of a hand-over, without the services; tests/gateway/test_hand_over.py has those."""

import asyncio
import os
import socket
from pathlib import Path

from citadel_llm.services.hand_over import HandOverPoint


def test_a_successor_that_fails_at_the_last_step_is_not_the_main_process(tmp_path: Path) -> None:
    """It was introduced to systemd, and ends before it has taken over: its end must not be the service's."""
    introduced: list[int] = []

    async def hand_over() -> None:
        loop, path = asyncio.get_running_loop(), tmp_path / "point"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            point = HandOverPoint(listener, None, introduced.append)
            point.open(path)
            waits = asyncio.create_task(point.handed_over())
            for last in (b"", b"taken\n"):
                with socket.socket(socket.AF_UNIX) as channel:
                    channel.setblocking(False)
                    await loop.sock_connect(channel, str(path))
                    await loop.sock_recv(channel, 4096)
                    await loop.sock_sendall(channel, b"ready\n")
                    assert await loop.sock_recv(channel, 4096) == b"yours\n"
                    await loop.sock_sendall(channel, last)
            await asyncio.wait_for(waits, 5)
            # It stays open to the end of the process, which the successor waits for.
            assert point._channel is not None
            point._channel.close()

    asyncio.run(hand_over())
    # The successor is this process, too; of the two that fail and succeed, the first is taken back.
    assert introduced == [os.getpid()] * 3
