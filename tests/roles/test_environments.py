"""Development, staging and production: the example's inventories, rendered by the role's own templates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from citadel_llm.config import load
from citadel_llm.services.service_settings import leaves_of

from .role_modules import ROLES, ROOT

pytestmark = pytest.mark.lab

INVENTORIES = {
    "production": "inventories/example",
    "staging": "inventories/example-staging",
    "development": "inventories/example-development",
}


def make_role(folder: Path) -> None:
    """A role that renders the layers: config's templates and variables, and every role's defaults."""
    (folder / "defaults/main").mkdir(parents=True)
    (folder / "vars/main").mkdir(parents=True)
    for path in ROLES.glob("*/defaults/main.yml"):
        (folder / f"defaults/main/{path.parents[1].name}.yml").symlink_to(path)
    for name in ("citadel", "config"):
        (folder / f"vars/main/{name}.yml").symlink_to(ROLES / name / "vars/main.yml")
    (folder / "templates").symlink_to(ROLES / "config/templates")
    (folder / "tasks").mkdir()
    copy = {"content": "{{ item.value }}", "dest": "{{ out }}/{{ item.key }}", "mode": "0644"}
    folders = {"path": "{{ out }}/{{ item.key | dirname }}", "state": "directory", "mode": "0755"}
    tasks = [
        {"name": name, f"ansible.builtin.{name}": arguments, "loop": "{{ __config_files | dict2items }}"}
        for name, arguments in (("file", folders), ("copy", copy))
    ]
    (folder / "tasks/main.yml").write_text(yaml.safe_dump(tasks))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("environments")
    make_role(folder / "roles/layers")
    plan = {"models": "{{ citadel_models }}", "made_from": "0", "on_demand": {"devices": []}}
    play = {
        "hosts": "citadel",
        "connection": "local",
        "gather_facts": False,
        "vars": {"__citadel_plan": plan, "ansible_python_interpreter": sys.executable},
        "roles": ["layers"],
    }
    (folder / "play.json").write_text(json.dumps([play]))
    filters = os.pathsep.join(str(path) for path in ROLES.glob("*/filter_plugins"))
    environment = {
        **os.environ,
        "ANSIBLE_ROLES_PATH": str(folder / "roles"),
        "ANSIBLE_FILTER_PLUGINS": filters,
    }
    for name, inventory in INVENTORIES.items():
        command = ["ansible-playbook", f"--inventory={inventory}", f"--extra-vars=out={folder / name}"]
        done = subprocess.run(
            [Path(sys.executable).with_name(command[0]), *command[1:], str(folder / "play.json")],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return {name: folder / name for name in INVENTORIES}


def settings_of(folder: Path) -> dict[str, Any]:
    tree = load(folder).model_dump(mode="json")
    return {".".join(map(str, path)): value for path, _, value in leaves_of(tree)}


def test_staging_differs_from_production_where_it_says_so_and_nowhere_else(rendered: dict[str, Path]) -> None:
    production, staging = settings_of(rendered["production"]), settings_of(rendered["staging"])
    assert {
        key: (production.get(key), staging.get(key))
        for key in {*production, *staging}
        if production.get(key) != staging.get(key)
    } == {
        "environment": ("production", "staging"),
        "gateway.accounting.keep_days": (90, 7),
        "gateway.tracing.share": (0.1, 1.0),
        "gateway.docs": (False, True),
    }


def test_development_has_a_model_of_its_own_as_well(rendered: dict[str, Path]) -> None:
    production, development = settings_of(rendered["production"]), settings_of(rendered["development"])
    different = {key for key in {*production, *development} if production.get(key) != development.get(key)}
    assert {key for key in different if not key.startswith("models.")} == {
        *("environment", "engine.build", "logging.level"),
        *("gateway.accounting.keep_days", "gateway.tracing.share", "gateway.docs"),
    }
    # Under the names by which clients know those of production.
    assert development["models.smollm2-135m-instruct.aliases"] == ["phi-3-mini", "mixtral"]


def test_the_same_layers_stand_on_each_and_one_line_chooses(rendered: dict[str, Path]) -> None:
    for layer in ("environments/production.yml", "environments/staging.yml", "services/gateway.yml"):
        texts = {(folder / layer).read_text() for folder in rendered.values()}
        assert len(texts) == 1, layer


@pytest.mark.parametrize("name", ["staging", "development"])
def test_an_environment_is_a_small_file(name: str) -> None:
    folder = ROOT / INVENTORIES[name] / "group_vars/all"
    assert (folder / "00-shared").resolve() == ROOT / "inventories/example/group_vars/all"
    lines = [line for path in folder.glob("*.yml") for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 25
