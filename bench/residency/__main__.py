"""What the policy is worth beside first come, first served: an hour of requests, in simulated time.

make residency                       # both hosts, three traces each: docs/models-on-demand.md
make residency OPTIONS="--seeds 1"   # a look: nothing is kept
make residency OPTIONS=--report      # write the page anew from the kept results
"""

import argparse
import datetime
import json
import multiprocessing
import statistics
import sys
from collections.abc import Sequence

from bench.command import narrator
from bench.residency import report
from bench.residency.cases import CASES
from bench.residency.simulation import FirstComeFirstServed, Simulation
from citadel_llm.config.residency import Residency
from citadel_llm.residency.policy import Action, Policy

_SEEDS = 3
_OPTIONS = Residency()
_POLICIES = {
    "first come, first served": (FirstComeFirstServed, {}),
    "citadel": (
        Policy,
        {
            "minimum_stay": _OPTIONS.minimum_stay_seconds,
            "patience": _OPTIONS.patience_seconds,
            "longest_wait": _OPTIONS.wait_seconds / 2,
        },
    ),
}


def main() -> int:
    """Do it; the exit status."""
    parser = argparse.ArgumentParser(prog="bench.residency", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=_SEEDS, metavar="N", help="traces of each host")
    parser.add_argument("--report", action="store_true", help="write the page from the kept results; no run")
    options = parser.parse_args()
    if options.report:
        report.write()
        return 0
    say = narrator()
    runs = [(case, policy, seed) for case in CASES for seed in range(options.seeds) for policy in _POLICIES]
    found: dict[tuple[str, str], list[report.Run]] = {}
    with multiprocessing.Pool() as pool:
        for (case, policy, seed), run in zip(runs, pool.imap(_one, runs), strict=True):
            say(f"{CASES[case][0]}, trace {seed + 1}, {policy}: {report.line(run)}")
            found.setdefault((case, policy), []).append(run)
    results: report.Results = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "make residency",
        "seeds": options.seeds,
        "rows": [
            {"case": CASES[case][0], "policy": policy, **_mean(rows)}
            for (case, policy), rows in found.items()
        ],
    }
    sys.stdout.write(report.table(results) + "\n")
    if options.seeds == _SEEDS:
        report.keep(results)
        report.write()
    return 0


def _one(run: tuple[str, str, int]) -> report.Run:
    case, policy, seed = run
    host = CASES[case][1](seed)
    kind, options = _POLICIES[policy]
    outcome = Simulation(kind(host.devices, host.host_bytes, **options), host.models, host.arrivals).run()
    waits = sorted(wait for _, wait in outcome.waits)
    return {
        "requests": len(waits),
        "swaps": outcome.moves[Action.WAKE],
        "mean": statistics.fmean(waits),
        "p50": _quantile(waits, 0.5),
        "p99": _quantile(waits, 0.99),
        "longest": waits[-1],
    }


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _mean(rows: list[report.Run]) -> report.Run:
    mean: dict[str, float] = {
        key: statistics.fmean(row[key] for row in rows)  # type: ignore[literal-required]
        for key in rows[0]
    }
    return json.loads(json.dumps({key: round(value, 1) for key, value in mean.items()}))  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
