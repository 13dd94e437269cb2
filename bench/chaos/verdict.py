"""What a fault did: of the clients' requests, and of what was noted of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.chaos.host import Counters, Record
from bench.chaos.load import Asked

Result = dict[str, Any]
# vLLM's counters, and what they are called here.
_COUNTED = {
    "vllm:prompt_tokens_total": "read",
    "vllm:generation_tokens_total": "written",
    "vllm:request_success_total": "requests",
}
# What happens to a client when its gateway is gone.
_CONNECTION = ("connection broken", "connection refused")


def of_clients(asked: Sequence[Asked], *, gateway_dies: bool) -> Result:
    """What the clients saw.

    Returns:
        Counts; `breaches` are the failures that the rule forbids: the answer had not begun, and another
        engine could have answered. All faults leave one. Where the gateway dies, nobody is left who could ask
        it for those who were connected.
    """
    failed = [one for one in asked if one.failure]
    unbegun = [one for one in failed if not one.begun]
    excused = [one for one in unbegun if gateway_dies and one.failure in _CONNECTION]
    firsts = [one.first - one.sent for one in asked if one.first is not None and one.stream]
    answers = [one.ended - one.sent for one in asked if not one.failure and not one.stream]
    return {
        "sent": len(asked),
        "answered": len(asked) - len(failed),
        "failed_begun": len(failed) - len(unbegun),
        "failed_unbegun": len(unbegun),
        "breaches": len(unbegun) - len(excused),
        "kinds": dict(sorted(Counter(one.failure for one in failed).items())),
        "first_token_longest": round(max(firsts, default=0.0), 2),
        "answer_longest": round(max(answers, default=0.0), 2),
    }


def of_records(
    asked: Sequence[Asked], records: Sequence[Record], lines: Mapping[str, Mapping[str, Any]]
) -> Result:
    """Whether each request that reached an engine has its record, and one only.

    Args:
        asked: The requests, as their clients saw them.
        records: What was noted since the last fault.
        lines: The gateway's access log, by request id; a killed gateway's last tenth of a second is missing.

    Returns:
        `missing`: requests that were answered, had begun, or that the log says an engine was asked, without a
        record; `double`: records too many; `unknown`: records of requests whose id no client learnt, of
        which there may be as many as `nameless` clients.
    """
    noted = Counter(record.request for record in records)
    ids = {one.id for one in asked if one.id}
    reached = {one.id for one in asked if one.id and (one.begun or not one.failure)}
    reached |= {each for each in ids | set(noted) if lines.get(each, {}).get("attempts", 0) > 0}
    return {
        "reached": len(reached | set(noted)),
        "records": len(records),
        "missing": len(reached - set(noted)),
        "double": sum(count - 1 for count in noted.values()),
        "unknown": len(set(noted) - ids),
        "nameless": sum(not one.id for one in asked),
        "estimated": sum(record.estimated for record in records),
        "retried": sum(lines.get(each, {}).get("attempts", 0) > 1 for each in ids | set(noted)),
    }


def of_counters(
    records: Sequence[Record], before: Mapping[str, Counters], after: Mapping[str, Counters]
) -> Result:
    """The records' sums beside the engines' own, of the engines that lived through it.

    Returns:
        `engines`: how many did; for `requests`, tokens `read` and `written`: what the engines counted and
        what was noted of them, records that are estimated left out, and how many those were.
    """
    lived = {
        engine
        for engine, counters in after.items()
        if engine in before and counters.values and before[engine].start == counters.start
    }
    of_them = [record for record in records if record.engine in lived]
    sure = [record for record in of_them if not record.estimated]
    counted = {
        name: round(
            sum(after[each].values.get(metric, 0.0) - before[each].values.get(metric, 0.0) for each in lived)
        )
        for metric, name in _COUNTED.items()
    }
    noted = {
        "read": sum(record.tokens_in for record in sure),
        "written": sum(record.tokens_out for record in sure),
        "requests": len(sure),
    }
    return {
        "engines": len(lived),
        "counted": counted,
        "noted": noted,
        "unsure": len(of_them) - len(sure),
    }
