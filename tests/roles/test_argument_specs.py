"""Every role declares each of its variables with its default, and what several roles share fits together."""

import typing

import pytest
import yaml

from citadel_llm import config

from .role_modules import ROLES, load

ALL = sorted(path.name for path in ROLES.iterdir() if path.is_dir())
MOST_SHARED = 15


def read(path):
    return yaml.safe_load(path.read_text()) if path.exists() else None


def entry_points(role):
    return read(ROLES / role / "meta/argument_specs.yml")["argument_specs"]


def declared(role):
    """The variables of the role's own entry point; for `citadel`, those that are shared."""
    points = entry_points(role)
    return (points["main"].get("options") or {}) | (points.get("shared", {}).get("options") or {})


@pytest.mark.parametrize("role", ALL)
def test_the_spec_names_what_the_defaults_name(role):
    assert set(declared(role)) == set(read(ROLES / role / "defaults/main.yml") or {})


@pytest.mark.parametrize("role", ALL)
def test_the_spec_has_the_defaults_values(role):
    defaults = read(ROLES / role / "defaults/main.yml") or {}
    assert {name: option.get("default") for name, option in declared(role).items()} == defaults


@pytest.mark.parametrize("role", ALL)
def test_every_variable_carries_its_roles_name_and_is_described(role):
    for point in entry_points(role).values():
        for name, option in (point.get("options") or {}).items():
            assert name.startswith(f"{role}_"), name
            assert option.get("description"), name
            assert option.get("type"), name


@pytest.mark.parametrize("role", ALL)
def test_every_default_stands_under_a_comment(role):
    file = ROLES / role / "defaults/main.yml"
    lines = file.read_text().splitlines() if file.exists() else []
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if line[:1].isalpha() and not before.startswith("#")
    ]
    assert bare == []


@pytest.mark.parametrize("role", sorted(set(ALL) - {"citadel", "lab_host"}))
def test_every_role_of_the_site_brings_the_shared_names_along(role):
    dependencies = read(ROLES / role / "meta/main.yml")["dependencies"]
    assert [dependency["role"] for dependency in dependencies] == ["citadel"]


def test_few_names_are_shared():
    assert len(declared("citadel")) <= MOST_SHARED


def test_every_port_that_something_listens_on_is_checked_for_clashes():
    ports = {name for role in ALL for name, option in declared(role).items() if name.endswith("_port")}
    assert ports == set(read(ROLES / "citadel/vars/main.yml")["__citadel_listening_ports"])


def schema_keys(model):
    """The keys that the application's schema takes for a model's entry, going down into its parts."""
    keys = {}
    for name, field in model.model_fields.items():
        parts = [
            part
            for part in typing.get_args(field.annotation) or [field.annotation]
            if hasattr(part, "model_fields")
        ]
        keys[name] = {key for part in parts for key in part.model_fields} or None
    return keys


def test_the_catalogue_in_the_spec_is_the_applications_without_its_plan():
    options = declared("citadel")["citadel_models"]["options"]
    written = schema_keys(config.Model)
    del written["plan"]
    assert {
        name: set(option["options"]) if "options" in option else None for name, option in options.items()
    } == written


def test_the_catalogues_defaults_in_the_spec_are_the_applications():
    options = declared("citadel")["citadel_models"]["options"]["engine"]["options"]
    fields = config.EngineOptions.model_fields
    for name, option in options.items():
        default = fields[name].default
        assert option.get("default") == (list(default) if isinstance(default, tuple) else default), name


def test_every_readme_is_current():
    readmes = load("scripts/render_role_readmes.py")
    for role in ALL:
        current = (ROLES / role / "README.md").read_text()
        assert readmes.render(ROLES / role, current) == current, f"{role}: run scripts/render_role_readmes.py"


def test_a_readmes_own_words_are_kept():
    readmes = load("scripts/render_role_readmes.py")
    current = f"# mine\n\nWords.\n\n{readmes.BEGIN}\nold\n{readmes.END}\n\nMore words.\n"
    rendered = readmes.render(ROLES / "directories", current)
    assert rendered.startswith("# mine\n\nWords.\n")
    assert rendered.endswith("\n\nMore words.\n")
    assert "| `directories_logs` | list of str |" in rendered
