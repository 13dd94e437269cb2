"""Models on demand on a lab host: real units, systemd, polkit, gateway, manager and engine services.

vLLM alone is a stand-in (tests/services/fake_vllm.py), so that models come up in a second: that a real one
does is seen where the whole site is deployed (molecule/full). There is room for one of the two models.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from tests.deploy.modules import load

from .conftest import PROJECT, OwnLab
from .deployed import place_application, render_unit
from .test_rights import render_rules

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="lab hosts are root's")]

HOST = {"name": "citadel-test-7", "address": "10.89.14.17"}
ACCOUNTS = ("citadel", "citadel-gateway", "citadel-engine", "citadel-manager")
ONE, TWO = "one", "two"
GATEWAY, MANAGER = "citadel-gateway.service", "citadel-manager.service"
_PYTHON = """#!/bin/sh
PYTHONPATH=/opt/citadel/site exec /usr/bin/python3 /opt/citadel/test/fake_vllm.py "$@"
"""


def unit_of(model: str) -> str:
    return f"citadel-engine@{model}.service"


class Host:
    """A lab host with everything in place, started."""

    def __init__(self, lab: OwnLab) -> None:
        self.lab = lab
        self.root = lab.root_of(HOST)
        self.http = httpx2.Client(base_url=f"http://{HOST['address']}:8000", timeout=60, verify=False)

    def do(self, command: str) -> str:
        done = self.lab.ssh(HOST, f"sudo sh -c {json.dumps(command)}")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.journal()}"
        return done.stdout.strip()

    def journal(self) -> str:
        command = "sudo journalctl --unit='citadel-*' --priority=warning --output=cat --no-pager -n 30"
        return self.lab.ssh(HOST, command).stdout

    def property(self, unit: str, name: str) -> str:
        return self.do(f"systemctl show --value --property={name} {unit}")

    def models(self) -> dict[str, dict[str, Any]]:
        return {row["model"]: row for row in json.loads(self.do("citadel models --json"))}

    def ask(self, model: str) -> httpx2.Response:
        return self.http.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 1})

    def must_answer(self, model: str) -> None:
        answer = self.ask(model)
        assert answer.status_code == 200, answer.text + self.journal()

    def install(self) -> None:
        accounts = " && ".join(f"useradd --system {name}" for name in ACCOUNTS)
        self.do(f"apt-get update -qq && apt-get install -qq --no-install-recommends polkitd && {accounts}")
        place_application(self.root, self.do("python3 --version").split()[1].rpartition(".")[0])
        opt = self.root / "opt/citadel"
        (opt / "test").mkdir()
        shutil.copy(PROJECT / "tests/services/fake_vllm.py", opt / "test")
        python = opt / "envs/engine/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(_PYTHON)
        python.chmod(0o755)
        for model in (ONE, TWO):
            folder = self.root / "srv/models" / model
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_text("")
        config = opt / "config/global/citadel.yml"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps(_settings()))
        self._place_units()
        self.do(
            "ln -sf /opt/citadel/current/venv/bin/citadel /usr/local/bin/citadel && "
            "mkdir -p /run/citadel /opt/citadel/secrets && "
            "install -d -m 700 -o citadel-gateway -g citadel-gateway /var/lib/citadel/gateway && "
            "chmod -R go+rX /opt/citadel /srv/models && systemctl daemon-reload && "
            "systemd-tmpfiles --create /etc/tmpfiles.d/citadel.conf && "
            "{ python3 -m compileall -q /opt/citadel/site /opt/citadel/current/src || true; }"
        )
        made = self.do("runuser -u citadel-gateway -- citadel keys create --name lab")
        key = next(word for word in made.split() if word.startswith("ck-"))
        self.http.headers["authorization"] = f"Bearer {key}"

    def _place_units(self) -> None:
        units = self.root / "etc/systemd/system"
        for name in ("citadel.target", "citadel.slice", GATEWAY, MANAGER, "citadel-engine@.service"):
            more = {"systemd_units_cpu_weight": 100, "systemd_units_memory_max": "infinity"}
            (units / name).write_text(render_unit(f"{name}.j2", **more))
        filters = load("roles/systemd_units/filter_plugins/citadel_services.py")
        described = [
            {"name": name, "revision": "x", "settings": {}, "on_demand": name not in {GATEWAY, MANAGER}}
            for name in (GATEWAY, MANAGER, unit_of(ONE), unit_of(TWO))
        ]
        for path, text in filters.drop_ins(described).items():
            (units / path).parent.mkdir()
            (units / path).write_text(text)
        (self.root / "etc/polkit-1/rules.d/50-citadel.rules").write_text(
            render_rules(filters.rights(described, "citadel"))
        )
        (self.root / "etc/tmpfiles.d/citadel.conf").write_text(
            render_unit(
                "tmpfiles.d/citadel.conf.j2",
                __systemd_units_accounts=ACCOUNTS[1:],
                citadel_group="citadel",
            )
        )


def _settings() -> dict[str, Any]:
    plan = {
        "residency": "cold",
        "max_model_len": 512,
        "kv_cache_bytes": 1,
        "memory": [{"device": 0, "awake_bytes": 6}],
    }
    source = {"kind": "folder", "path": "/nowhere"}
    return {
        "environment": "development",
        "models_root": "/srv/models",
        "engine": {"build": "cpu", "python": "/opt/citadel/envs/engine/bin/python"},
        "placement": {"on_demand": {"devices": [{"device": 0, "bytes": 10}]}},
        "residency": {"minimum_stay_seconds": 0.5, "patience_seconds": 1, "retry_seconds": 4},
        "models": [{"name": name, "source": source, "plan": plan} for name in (ONE, TWO)],
    }


@pytest.fixture(scope="module")
def host(lab: OwnLab) -> Iterator[Host]:
    lab("up", HOST, lab_host_memory=4096)
    try:
        host = Host(lab)
        host.install()
        yield host
        host.http.close()
    finally:
        lab("down", HOST)


@pytest.fixture(autouse=True)
def _up(host: Host) -> None:
    """All that runs always, running."""
    host.do(f"systemctl start {GATEWAY} {MANAGER}")
    _until(lambda: host.http.get("/ready").status_code == 200)


def test_models_are_brought_up_by_requests_and_take_turns(host: Host) -> None:
    host.must_answer(ONE)
    assert host.property(unit_of(ONE), "ActiveState") == "active"
    host.must_answer(TWO)
    states = {name: row["state"] for name, row in host.models().items()}
    assert states == {ONE: "cold", TWO: "awake"}
    # What starting took is known from then on.
    assert host.models()[TWO]["start_seconds"] < 45


def test_an_engine_that_dies_comes_again_for_the_next_request(host: Host) -> None:
    host.must_answer(ONE)
    host.do(f"systemctl kill --signal=KILL {unit_of(ONE)}")
    # Not at once, and whoever asks meanwhile is told why.
    answers: list[httpx2.Response] = []

    def answered() -> bool:
        answers.append(host.ask(ONE))
        return answers[-1].status_code == 200

    _until(answered)
    assert answers[0].status_code == 503
    assert "could not be loaded" in answers[0].json()["error"]["message"]


def test_a_manager_that_dies_finds_the_models_where_they_are(host: Host) -> None:
    host.must_answer(ONE)
    began = host.property(unit_of(ONE), "MainPID")
    host.do("citadel models pin one")
    before = host.property(MANAGER, "MainPID")
    host.do(f"systemctl kill --signal=KILL {MANAGER}")
    # Meanwhile what is awake answers.
    host.must_answer(ONE)
    _until(lambda: host.property(MANAGER, "MainPID") not in {"0", before})
    _until(lambda: host.property(MANAGER, "SubState") == "running")
    row = host.models()[ONE]
    assert (row["state"], row["pinned"]) == ("awake", True)
    assert host.property(unit_of(ONE), "MainPID") == began
    host.do("citadel models unpin one")


def test_an_orderly_stop_of_everything_loses_no_answer(host: Host) -> None:
    """The gateway finishes what it has in hand, and only then the engine goes."""
    host.must_answer(ONE)
    said: list[str] = []

    def read() -> None:
        body = {"model": ONE, "prompt": "x", "max_tokens": 40, "stream": True}
        with host.http.stream("POST", "/v1/completions", json=body) as answer:
            said.extend(answer.iter_lines())

    reader = threading.Thread(target=read)
    reader.start()
    _until(lambda: host.models()[ONE]["in_hand"] == 1)
    host.do("systemctl stop citadel.target")
    reader.join()
    assert said[-2:] == ["data: [DONE]", ""]
    assert len([line for line in said if line]) == 41
    ends = {
        unit: int(host.property(unit, "InactiveEnterTimestampMonotonic")) for unit in (GATEWAY, unit_of(ONE))
    }
    assert ends[GATEWAY] < ends[unit_of(ONE)]
    # It began to stop when everything did, and waited.
    assert "waiting for the gateway to finish" in host.do(
        f"journalctl --unit={unit_of(ONE)} -o cat --no-pager"
    )


def _until(holds: Callable[[], bool], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while True:
        try:
            if holds():
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
