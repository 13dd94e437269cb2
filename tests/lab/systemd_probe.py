# ruff: noqa: T201
"""Runs on a lab host, and does by citadel_llm.services.systemd what its command line says, in JSON.

`VERB UNIT`: start, stop and so on; `done`, or the error. `watch UNIT…`: each change, until its input ends.
"""

import asyncio
import dataclasses
import json
import sys

sys.path[:0] = ["/opt/citadel/site", "/opt/citadel/src"]

from citadel_llm.services.systemd import JobFailedError, Systemd, SystemdError  # noqa: E402


async def act(verb: str, unit: str) -> object:
    async with Systemd() as systemd:
        if verb == "both":
            # Two askers, and a quick one in between.
            await asyncio.gather(systemd.start(unit), systemd.start(unit), systemd.restart("quick.service"))
        elif verb == "many":
            for _ in range(100):
                await systemd.restart(unit)
        elif verb == "down":
            return await systemd.shutting_down()
        elif verb == "state":
            return dataclasses.asdict((await systemd.states([unit]))[0])
        else:
            await getattr(systemd, verb)(unit)
    return "done"


async def watch(units: list[str]) -> None:
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))

    async def tell() -> None:
        async with Systemd() as systemd:
            async for state in systemd.changes(units):
                print(json.dumps(dataclasses.asdict(state)), flush=True)

    telling = asyncio.create_task(tell())
    await asyncio.wait([ended, telling], return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)


verb, *units = sys.argv[1:]
if verb == "watch":
    asyncio.run(watch(units))
else:
    try:
        print(json.dumps(asyncio.run(act(verb, units[0] if units else ""))))
    except SystemdError as error:
        result = error.result if isinstance(error, JobFailedError) else None
        print(json.dumps({"error": type(error).__name__, "result": result, "says": str(error)}))
