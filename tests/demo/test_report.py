import io
import json
import shlex
from pathlib import Path

import pytest
from citadel_demo import report, site
from citadel_demo.display import LiveDisplay, PlainDisplay, display_for
from citadel_demo.follower import Failure
from citadel_demo.question import Answers
from citadel_demo.site import Site
from citadel_demo.timeline import Timeline
from rich.console import Console

PROJECT = Path(__file__).parents[2]
KEY = "ck-a-key-that-is-none"


@pytest.fixture
def the_site() -> Site:
    return Site("lab-1", "10.89.13.11", 8000, "small", "/opt/citadel", Path("/var/lib/lab/ssh/config"))


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, highlight=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_key_goes_to_a_terminal_only(the_site: Site, terminal: bool) -> None:
    to = console(terminal=terminal)
    report.show_answers(to, the_site, Answers("cold", "Paris."), KEY)
    assert (KEY in shown(to)) is terminal
    assert "export OPENAI_API_KEY=" in shown(to)


def test_what_is_to_be_pasted_is_never_wrapped(the_site: Site) -> None:
    to = console(terminal=False)
    report.show_answers(to, the_site, Answers("cold", "Paris."), KEY)
    lines = [line.strip() for line in shown(to).splitlines()]
    for command in report.commands(the_site):
        assert command in lines


def test_the_commands_are_whole_words_to_a_shell(the_site: Site) -> None:
    curl, sdk, ssh = (shlex.split(command) for command in report.commands(the_site))
    assert json.loads(curl[-1])["model"] == "small"
    compile(sdk[-1], "the SDK's command", "exec")
    assert ssh == the_site.ssh


def test_timings_are_seconds_a_stage_and_no_secret(tmp_path: Path) -> None:
    timeline = Timeline()
    timeline.add("bootstrap", 1.25)
    timeline.add("lab_host", 2.5)
    report.write_timings(tmp_path / "timings.json", timeline, 3)
    assert json.loads((tmp_path / "timings.json").read_text()) == {
        "total_seconds": 3.8,
        "changed_tasks": 3,
        "stages": [{"name": "bootstrap", "seconds": 1.2}, {"name": "lab_host", "seconds": 2.5}],
    }


def test_a_failure_says_what_where_and_what_to_do(the_site: Site) -> None:
    to = console(terminal=False)
    failure = Failure("lab-1", "models : Fetch", "no such package\nsecond line")
    report.show_failure(to, "Model", failure, log=Path("/a/log"), login=the_site.ssh)
    said = shown(to)
    for part in ("Model", "models : Fetch", "lab-1", "no such package", "second line", "/a/log", "make demo"):
        assert part in said


def test_an_error_outside_of_tasks_is_shown_too(the_site: Site) -> None:
    to = console(terminal=False)
    report.show_failure(to, "Preflight", "The role 'x' was not found", log=Path("/a/log"), login=the_site.ssh)
    assert "The role 'x' was not found" in shown(to)


def test_the_lab_inventory_says_where_the_api_is() -> None:
    found = site.read(PROJECT, PROJECT / "inventories/lab")
    assert found.url == f"http://{found.address}:{found.port}/v1"
    assert found.key_command[:4] == ["ssh", "-F", "/var/lib/citadel-lab/ssh/config", found.host]


def test_a_log_gets_lines_and_a_terminal_gets_the_live_display() -> None:
    timeline = Timeline()
    assert isinstance(display_for(console(terminal=True), timeline), LiveDisplay)
    plain = console(terminal=False)
    display = display_for(plain, timeline)
    assert isinstance(display, PlainDisplay)
    stage = timeline.begin("config")
    display.stage_began(stage)
    display.stage_ended(stage, failed=True)
    first, second = shown(plain).splitlines()
    assert first.strip().endswith("...")
    assert second.endswith("FAILED")


def test_the_live_display_shows_stage_and_task_and_then_its_time() -> None:
    timeline = Timeline(clock=iter([10.0, 12.0, 15.5]).__next__)
    to = console(terminal=True)
    display = LiveDisplay(to, timeline)
    display.stage_began(timeline.begin("config"))
    display.task_began("Render the files")
    to.print(display._line())
    ended = timeline.end()
    assert ended is not None
    display.stage_ended(ended, failed=False)
    moving, done = shown(to).splitlines()[-2:]
    assert "Configuration" in moving
    assert "2 s" in moving
    assert "5.5 s" in done
