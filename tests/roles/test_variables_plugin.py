import pytest

from .role_modules import load

plugin = load("roles/citadel/action_plugins/citadel_variables.py")

SPECS = {
    "gateway_timeout": {"type": "int", "default": 5},
    "gateway_port": {"type": "int", "default": 8000},
    "gateway_sources": {"type": "list", "elements": "str", "default": []},
    "citadel_root": {"type": "path", "default": "/opt/citadel"},
}


def unknown(*names):
    faults = plugin.unknown_names(dict.fromkeys(names, 1), SPECS, ["citadel", "gateway"])
    return [(fault.where, fault.remedy) for fault in faults]


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        pytest.param("gateway_prot", "gateway_port", id="letters swapped"),
        pytest.param("gateway_timeouts", "gateway_timeout", id="letter too many"),
        pytest.param("gatway_timeout", "gateway_timeout", id="the role misspelt"),
        pytest.param("citadel_rot", "citadel_root", id="letter missing"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(name, suggestion):
    assert unknown(name) == [(name, f"no variable has this name; did you mean {suggestion}?")]


def test_a_name_near_none_is_refused_where_it_carries_a_roles_prefix():
    ((name, remedy),) = unknown("gateway_quux_frobnicate")
    assert name == "gateway_quux_frobnicate"
    assert "did you mean" not in remedy


@pytest.mark.parametrize(
    "name", ["gateway_port", "__gateway_port", "ansible_port", "my_port", "inventory_hostname"]
)
def test_other_names_are_left_alone(name):
    assert unknown(name) == []


def places(value, spec, name="x"):
    return [fault.where for fault in plugin.value_faults(name, value, spec)]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("str", ["a", ""], [1, 1.5, True, ["a"], {"a": 1}]),
        ("path", ["/a"], [1, ["/a"]]),
        ("int", [0, 7, "7"], ["seven", 1.5, True, "", [7], None]),
        ("float", [0, 1.5, "1.5"], ["much", True, []]),
        ("bool", [True, False, "yes", "false"], ["maybe", 2, [], ""]),
        ("list", [[], ["a"]], ["a", "a,b", 1, {"a": 1}]),
        ("dict", [{}, {"a": 1}], ["a=b", [], 1]),
        ("raw", [1, "a", [], {}], []),
    ],
)
def test_types(kind, good, bad):
    spec = {"type": kind, "required": True}
    assert {repr(value): places(value, spec) for value in good} == {repr(value): [] for value in good}
    assert {repr(value): places(value, spec) for value in bad} == {repr(value): ["x"] for value in bad}


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ({"type": "str"}, []),
        ({"type": "str", "default": "a"}, ["x"]),
        ({"type": "str", "required": True}, ["x"]),
    ],
)
def test_null_stands_for_what_has_no_default(spec, faults):
    assert places(None, spec) == faults


def test_a_size_with_a_unit_is_told_which_unit_it_is_in():
    [fault] = plugin.value_faults("hardware_profile.storage[0].size_gib", "3.6TB", {"type": "float"})
    assert fault.remedy == "it must be a number, in GiB and without a unit: 1 TB as disks are sold is 931"


def test_choices():
    assert places("a", {"type": "str", "choices": ["a", "b"]}) == []
    assert places("c", {"type": "str", "choices": ["a", "b"]}) == ["x"]


MODEL = {
    "type": "list",
    "elements": "dict",
    "options": {
        "name": {"type": "str", "required": True},
        "engine": {"type": "dict", "options": {"gpus": {"type": "list", "elements": "int"}}},
    },
}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ([{"name": "a", "engine": {"gpus": [0, "1"]}}], []),
        ([{"name": "a"}, {"nam": "b"}], ["x[1].nam", "x[1].name"]),
        ([{"name": "a", "engine": {"gpus": "all"}}], ["x[0].engine.gpus"]),
        ([{"name": "a", "engine": {"gpus": [0, "one"]}}], ["x[0].engine.gpus[1]"]),
        (["a"], ["x[0]"]),
        ([{"name": 1, "engine": []}], ["x[0].name", "x[0].engine"]),
    ],
)
def test_the_place_inside_a_structure_is_named(value, where):
    assert places(value, MODEL) == where


@pytest.mark.parametrize(
    ("name", "value", "spec", "good"),
    [
        ("a_port", 8000, {"type": "int"}, True),
        ("a_port", 0, {"type": "int"}, False),
        ("a_port", 65536, {"type": "int"}, False),
        ("a_ports", [22, 70000], {"type": "list", "elements": "int"}, False),
        ("a_count", -1, {"type": "int"}, False),
        ("a_count", 0, {"type": "int"}, True),
        ("a_sources", ["10.0.0.0/8", "fd00::/8", "192.0.2.1"], {"type": "list", "elements": "str"}, True),
        ("a_sources", ["10.0.0.1/8"], {"type": "list", "elements": "str"}, False),
        ("a_sources", ["everywhere"], {"type": "list", "elements": "str"}, False),
    ],
)
def test_what_a_name_promises_is_kept(name, value, spec, good):
    assert (places(value, spec, name) == []) is good


def test_a_fault_names_the_variable_what_it_was_and_what_would_do():
    (fault,) = plugin.value_faults("gateway_port", "eighty", SPECS["gateway_port"])
    assert str(fault) == "gateway_port is 'eighty': it must be a whole number, such as 8000 (the default)"


def test_all_faults_stand_in_one_report():
    faults = [plugin.Fault("a", "1", "it must be 2"), plugin.Fault("b", "3", "it must be 4")]
    assert plugin.report(faults).splitlines()[1:] == ["- a is 1: it must be 2", "- b is 3: it must be 4"]


@pytest.mark.parametrize("name", ["x_password", "x_api_key", "x[0].token"])
def test_secrets_are_not_shown(name):
    assert plugin.show(name, "hunter2") == "<hidden>"


def test_a_long_value_is_cut():
    assert len(plugin.show("x", "a" * 500)) == 80


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "null"), (True, "true"), (1, "1"), ("1", "'1'"), ([1], "[1]")]
)
def test_a_value_is_shown_as_it_would_be_written(value, shown):
    assert plugin.show("x", value) == shown
