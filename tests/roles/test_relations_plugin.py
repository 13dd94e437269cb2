import pytest

from citadel_llm.config.inventory import plain

from .role_modules import ROOT, load

plugin = load("roles/citadel/action_plugins/citadel_relations.py")

PACKAGE = {"kind": "package", "package": "p", "version": "1", "path": "p/w.gguf", "sha256": "0" * 64}


def model(name="a", **other):
    return {"name": name, "source": PACKAGE, **other}


def faults(*models, **other):
    variables = {
        "citadel_models": list(models),
        "citadel_engine_build": "cpu",
        "citadel_environment": "production",
        "citadel_api_address": "127.0.0.1",
        "citadel_api_port": 8000,
        "citadel_models_root": "/models",
        "citadel_root": "/opt/citadel",
        "citadel_placement": {},
    }
    plugin.variable_names(ROOT / "src")
    return list(plugin.catalogue_faults(variables | other))


def test_a_good_catalogue_has_no_faults():
    assert faults(model(), model("b", aliases=["c"])) == []


@pytest.mark.parametrize(
    ("models", "place"),
    [
        pytest.param([model(), model()], "citadel_models[1].name", id="a name twice"),
        pytest.param(
            [model(), model("b", aliases=["a"])], "citadel_models[1].aliases", id="an alias is a name"
        ),
        pytest.param([model("a b")], "citadel_models[0].name", id="a name that is none"),
        pytest.param([model("a" * 65)], "citadel_models[0].name", id="a name too long for its socket"),
        pytest.param(
            [model(engine={"gpus": [0]})], "citadel_models[0].engine.gpus", id="a GPU for the CPU build"
        ),
        pytest.param(
            [model(source={"kind": "hub"})], "citadel_models[0].source.repository", id="half a source"
        ),
        pytest.param(
            [model(source={"kind": "ftp"})], "citadel_models[0].source.kind", id="no kind of source"
        ),
        pytest.param([model(engine={"dtypes": "auto"})], "citadel_models[0].engine.dtypes", id="no such key"),
    ],
)
def test_each_fault_names_its_place_in_the_variables(models, place):
    assert any(fault.startswith(f"{place}: ") for fault in faults(*models)), faults(*models)


def test_faults_of_several_models_are_told_together():
    told = faults(model("a b"), model("c", engine={"max_model_len": 0}))
    assert [fault.split(": ")[0] for fault in told] == [
        "citadel_models[0].name",
        "citadel_models[1].engine.max_model_len",
    ]


def test_an_address_that_is_none():
    assert faults(citadel_api_address="everywhere")[0].startswith("citadel_api_address: ")


def test_values_lose_ansibles_types():
    class Tagged(str):
        __slots__ = ()

    value = plain({Tagged("a"): [Tagged("b"), True, 1, 1.5, None]})
    assert value == {"a": ["b", True, 1, 1.5, None]}
    assert type(value["a"][0]) is str
    assert type(value["a"][1]) is bool


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ({"a": 1, "b": 2}, []),
        ({"a": 1, "b": 1}, [("b", "a", "2")]),
        ({"a": 1, "b": 2, "c": 1}, [("c", "a", "3")]),
        ({"a": 1, "b": 1, "c": 1}, [("b", "a", "2"), ("c", "a", "2")]),
    ],
)
def test_two_services_on_one_port(ports, expected):
    told = list(plugin.port_faults(ports))
    assert len(told) == len(expected)
    for fault, (name, other, free) in zip(told, expected, strict=True):
        assert fault.startswith(f"{name}: it is {ports[name]}, and so is {other}")
        assert fault.endswith(f"{free} would do")
