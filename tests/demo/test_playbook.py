import io
import tempfile
from pathlib import Path

import pytest
from citadel_demo.follower import Follower
from citadel_demo.playbook import PlaybookError, Playbooks
from citadel_demo.timeline import Timeline

from .test_follower import Recorder

# ansible-runner forks beside a thread of its own; between fork and exec nothing happens.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

PLAYBOOK = """
- name: Try
  hosts: all
  gather_facts: false
  tasks:
    - name: Do what can be done
      ansible.builtin.debug:
        msg: "the variable is {{ given }}"
    - name: Do what may fail
      ansible.builtin.assert:
        that: given == 'good'
        fail_msg: it was not good
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "try.yml").write_text(PLAYBOOK)
    (tmp_path / "hosts.yml").write_text("all: {hosts: {here: {ansible_connection: local}}}\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setenv("A_SECRET", "not to be kept")
    return tmp_path


@pytest.fixture
def follower() -> Follower:
    return Follower(Timeline(), Recorder())


def test_a_playbook_runs_with_its_variables_and_is_logged(project: Path, follower: Follower) -> None:
    log = io.StringIO()
    Playbooks(project, project / "hosts.yml").run("try.yml", {"given": "good"}, follower, log)
    assert "the variable is good" in log.getvalue()
    assert follower.failures == []


def test_a_task_that_fails_is_told_and_nothing_of_the_environment_is_kept(
    project: Path, follower: Follower
) -> None:
    log = io.StringIO()
    with pytest.raises(PlaybookError):
        Playbooks(project, project / "hosts.yml").run("try.yml", {"given": "bad"}, follower, log)
    assert follower.failures[0].message == "it was not good"
    assert follower.failures[0].host == "here"
    assert not any((project / "scratch").iterdir())


def test_a_playbook_that_is_not_there_is_an_error_with_its_reason_in_the_log(
    project: Path, follower: Follower
) -> None:
    log = io.StringIO()
    with pytest.raises(PlaybookError):
        Playbooks(project, project / "hosts.yml").run("none.yml", {}, follower, log)
    assert follower.failures == []
    assert "none.yml could not be found" in log.getvalue()
