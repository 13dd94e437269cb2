from typing import Any

import pytest
from citadel_demo.follower import Follower
from citadel_demo.timeline import Stage, Timeline


class Recorder:
    """A display that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage_began(self, stage: Stage) -> None:
        self.said.append(f"+{stage.name}")

    def task_began(self, name: str) -> None:
        self.said.append(name)

    def stage_ended(self, stage: Stage, *, failed: bool) -> None:
        self.said.append(f"{'!' if failed else '-'}{stage.name} {stage.seconds:g}")


class Clock:
    """A clock that is a second later each time it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def follower(recorder: Recorder) -> Follower:
    return Follower(Timeline(clock=Clock()), recorder)


def task(role: str, name: str, kind: str = "playbook_on_task_start") -> dict[str, Any]:
    return {"event": kind, "event_data": {"role": role, "task": name}}


def entry(role: str) -> dict[str, Any]:
    return task(role, "Validating arguments against arg spec 'main' - What it is for")


def failed(result: dict[str, Any], **data: object) -> dict[str, Any]:
    place = {"host": "lab-1", "role": "models", "task": "Fetch"}
    return {"event": "runner_on_failed", "event_data": {**place, "res": result, **data}}


def test_each_role_is_a_stage_that_the_next_one_ends(follower: Follower, recorder: Recorder) -> None:
    follower.follow(entry("config"))
    follower.follow(task("config", "Render"))
    follower.follow(entry("services"))
    follower.end()
    assert [word for word in recorder.said if word[0] in "+-"] == [
        "+config",
        "-config 1",
        "+services",
        "-services 1",
    ]
    assert "Render" in recorder.said


def test_tasks_from_other_roles_belong_to_the_running_stage(follower: Follower, recorder: Recorder) -> None:
    follower.follow(entry("citadel"))
    follower.follow(task("gateway", "Stop unless the port can be opened"))
    follower.follow(entry("services"))
    follower.follow(entry("citadel"))
    follower.follow(task("python_env", "Build"))
    follower.follow(task("config", "Reload", "playbook_on_handler_task_start"))
    follower.follow(task("", "Gather"))
    assert [word for word in recorder.said if word[0] in "+-"] == ["+citadel", "-citadel 1", "+services"]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"msg": "no such package"}, "no such package"),
        (
            {"msg": "non-zero return code", "stdout": "working", "stderr": "boom"},
            "non-zero return code\nboom",
        ),
        ({"msg": "non-zero return code", "stdout": "working", "stderr": ""}, "non-zero return code\nworking"),
        ({"msg": "MODULE FAILURE", "module_stderr": "Traceback"}, "MODULE FAILURE\nTraceback"),
        ({"msg": ["first", "second"]}, "first\nsecond"),
        (
            {"msg": "one or more items failed", "results": [{"msg": "fine"}, {"failed": True, "msg": "bad"}]},
            "bad",
        ),
        (
            {"stderr": "\n".join(str(line) for line in range(99))},
            "\n".join(str(line) for line in range(84, 99)),
        ),
        ({}, "nothing"),
    ],
)
def test_a_failure_is_told_in_the_tasks_own_words(
    follower: Follower, result: dict[str, Any], message: str
) -> None:
    follower.follow(failed(result))
    (failure,) = follower.failures
    assert (failure.host, failure.task, failure.message) == ("lab-1", "models : Fetch", message)


def test_a_failure_that_the_playbook_expects_is_none(follower: Follower) -> None:
    follower.follow(failed({"msg": "not there"}, ignore_errors=True))
    assert follower.failures == []


def test_an_unreachable_host_is_a_failure(follower: Follower) -> None:
    follower.follow({**failed({"msg": "Connection timed out"}), "event": "runner_on_unreachable"})
    assert follower.failures[0].message == "Connection timed out"


def test_changes_add_up_over_hosts_and_playbooks(follower: Follower) -> None:
    follower.follow({"event": "playbook_on_stats", "event_data": {"changed": {"localhost": 1}}})
    follower.follow({"event": "playbook_on_stats", "event_data": {"changed": {"lab-1": 3, "lab-2": 4}}})
    assert follower.changed == 8


def test_events_that_say_nothing_here_are_passed_over(follower: Follower, recorder: Recorder) -> None:
    follower.follow({"event": "verbose", "stdout": "text"})
    follower.follow({"event": "runner_on_ok", "event_data": {"role": "config"}})
    assert recorder.said == []
