"""Take one thing after the other away from a site under load, and tell what its clients saw.

make chaos                              # all of it: a lab host, the site, the faults, docs/chaos.md
make chaos OPTIONS=--keep               # leave the host for a look; the next run uses it
make chaos OPTIONS="--only disk"        # the faults with that word; nothing is kept
make chaos OPTIONS=--down               # remove what --keep left
make chaos OPTIONS=--report             # write the page anew from the kept results
"""

import argparse
import asyncio
import datetime
import sys
import time

from bench.chaos import faults, host, report, verdict
from bench.chaos.faults import Fault
from bench.chaos.load import AT_ONCE, Load
from bench.command import INTERRUPTED, Say, narrator, when_interrupted
from bench.runner import machine

_STEADY_SECONDS = 3
# Against a site that hangs: four times what it takes.
_LONGEST_SECONDS = 3600


def main() -> int:
    """Do it; the exit status, which is 1 if the rule was broken."""
    options = _options()
    if options.report:
        report.write()
        return 0
    return asyncio.run(_supervised(options, narrator()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.chaos", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--keep", action="store_true", help="leave the host as it is")
    parser.add_argument("--no-deploy", action="store_true", help="use a host that --keep left, as it is")
    parser.add_argument("--only", default="", metavar="WORD", help="faults with this word; nothing is kept")
    parser.add_argument("--down", action="store_true", help="remove the host, and do nothing else")
    parser.add_argument("--report", action="store_true", help="write the page from the kept results; no run")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """What to type for the same again."""
    words = [f"--{each}" for each in ("no-deploy", "keep") if getattr(options, each.replace("-", "_"))]
    return f'make chaos OPTIONS="{" ".join(words)}"' if words else "make chaos"


async def _supervised(options: argparse.Namespace, say: Say) -> int:
    """Run it, and remove the host, whatever happens."""
    if task := asyncio.current_task():
        when_interrupted(task.cancel)
    status = 1
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            status = 0 if options.down else await _run(options, say)
    except asyncio.CancelledError:
        say("interrupted")
        status = INTERRUPTED
    except (host.HostError, faults.NotOverError, TimeoutError) as error:
        say(f"given up: {error or 'it takes too long'}")
    finally:
        if not options.keep:
            say("removing the host")
            when_interrupted(lambda: say("wait: the host is being removed"))
            await host.down()
    return status


async def _run(options: argparse.Namespace, say: Say) -> int:
    began = time.monotonic()
    host.LOG.unlink(missing_ok=True)
    if not options.no_deploy:
        say("making the lab host")
        await host.up()
        say(f"deploying the site on it: some minutes; {host.LOG.relative_to(host.ROOT)} tells")
        await host.playbook("site.yml")
    await faults.until_whole()
    key = await host.make_key()
    results: list[verdict.Result] = []
    seen: set[tuple[int, int]] = set()
    for fault in (each for each in faults.FAULTS if options.only in each.name):
        say(fault.name)
        result = await _one(fault, key, seen)
        results.append(result)
        say("  " + report.line(result))
    requests, read, written = await host.sums()
    noted = await host.records()
    kept = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": _command(options),
        "seconds": round(time.monotonic() - began),
        "machine": machine(),
        "at_once": AT_ONCE,
        "faults": results,
        "sums": {"requests": requests, "read": read, "written": written},
        "records": {
            "requests": len(noted),
            "read": sum(one.tokens_in for one in noted),
            "written": sum(one.tokens_out for one in noted),
        },
    }
    sys.stdout.write(report.tables(kept) + "\n")
    if not options.only:
        report.keep(kept)
        report.write()
    return 0 if report.holds(kept) else 1


async def _one(fault: Fault, key: str, seen: set[tuple[int, int]]) -> verdict.Result:
    """Put the site under load, do one thing to it, and wait until it is whole again."""
    seen |= {(one.run, one.number) for one in await host.records()}
    before, since = await host.counters(), time.time()
    load = Load(key)
    load.start()
    try:
        await asyncio.sleep(_STEADY_SECONDS)
        injected = time.monotonic()
        try:
            await host.shell(fault.inject)
            if fault.felt is not None:
                await faults.wait_until(fault.felt, f"the gateway notices: {fault.name}")
            await asyncio.sleep(max(0.0, injected + fault.least - time.monotonic()))
        finally:
            if fault.undo:
                await host.shell(fault.undo)
        await faults.until_whole()
        whole = time.monotonic()
        await asyncio.sleep(_STEADY_SECONDS)
        await load.stop()
    finally:
        load.cancel()
    await faults.until_noted()
    noted = [one for one in await host.records() if (one.run, one.number) not in seen]
    return {
        "fault": fault.name,
        "seconds": round(whole - injected),
        "gateway_dies": fault.gateway_dies,
        "clients": verdict.of_clients(load.asked, gateway_dies=fault.gateway_dies),
        "records": verdict.of_records(load.asked, noted, await host.access_lines(since - 1)),
        "counters": verdict.of_counters(noted, before, await host.counters()),
    }


if __name__ == "__main__":
    sys.exit(main())
