"""Run the benchmark, keep its results, and write them into the docs.

bench/run                 # the whole of it: a quarter of an hour, docs/benchmarks/ and docs/benchmarks.md
bench/run --quick         # a look, under two minutes: nothing is kept but the report on the terminal
bench/run --only citadel --only nginx
bench/run --report        # write the page anew from the kept results
"""

import argparse
import asyncio
import dataclasses
import datetime
import shlex
import sys
from pathlib import Path

import uvloop

from bench import peers, report
from bench.command import INTERRUPTED, Say, narrator, when_interrupted
from bench.figures import Results
from bench.measures import FULL, QUICK, Plan
from bench.runner import Bench, machine, raise_limits

# Twice what the whole takes, against a contender that hangs.
_LONGEST_SECONDS = 45 * 60


def main() -> int:
    """Do it; the exit status."""
    options = _options()
    if options.report:
        report.write()
        return 0
    say = narrator()
    try:
        found = peers.get(say)
    except peers.SetupError as error:
        say(str(error))
        return 1
    raise_limits()
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    results = uvloop.run(_run(plan, found, set(options.only), say))
    if results is None:
        say("interrupted: all that was started is ended")
        return INTERRUPTED
    results["command"] = _command(options)
    if options.output:
        options.output.write_text(report.as_json(results), encoding="utf-8")
    sys.stdout.write(report.tables(results) + "\n")
    if not options.quick and not options.only:
        report.RESULTS.parent.mkdir(parents=True, exist_ok=True)
        report.RESULTS.write_text(report.as_json(results), encoding="utf-8")
        report.write()
    return 1 if results["left_out"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="short measures, one round; nothing is kept")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run this contender alone"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the results there, too (JSON)")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each contender has its turn")
    parser.add_argument("--report", action="store_true", help="write the page from the kept results; no run")
    return parser.parse_args()


def _command(options: argparse.Namespace) -> str:
    """What to type for the same again."""
    words = ["bench/run", *(["--quick"] if options.quick else [])]
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    return " ".join([*words, *(f"--only {shlex.quote(name)}" for name in options.only)])


async def _run(plan: Plan, found: peers.Peers, only: set[str], say: Say) -> Results | None:
    bench = Bench(plan, found, only, say)
    if task := asyncio.current_task():
        when_interrupted(task.cancel)
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            run = await bench.go()
    except asyncio.CancelledError:
        # Told to the caller, not raised: an exit from within the loop ended uvloop by a segmentation fault.
        return None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "rounds": plan.rounds,
        "seconds": run.seconds,
        "versions": {one.name: one.version() for one in bench.contenders},
        "settings": {one.name: one.settings for one in bench.contenders},
        "figures": run.figures,
        "errors": run.errors,
        "left_out": run.left_out,
    }


if __name__ == "__main__":
    sys.exit(main())
