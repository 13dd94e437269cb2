"""`citadel plan`: on a host with a recorded hardware report, and on the controller with real inventories."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from citadel_llm.cli import plan_sources
from citadel_llm.config.schema import Model
from citadel_llm.placement.calibration import Measurement, variant_of

from .machine import Machine, Run

# Runs Ansible, or its modules as processes: that takes seconds.
pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[2]
EXAMPLE = str(PROJECT / "inventories" / "example")
SHAPE = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 152064,
}
CARD = {"name": "NVIDIA GeForce RTX 5060 Ti", "memory_mib": 16311, "compute_capability": "12.0"}


def model(name: str = "qwen", **more: Any) -> dict[str, Any]:
    """A Qwen2.5 of 7 billion parameters: 14.2 GiB in bf16."""
    return {"name": name, "source": {"kind": "folder", "path": "/x"}, "architecture": SHAPE, **more}


@pytest.fixture
def report(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report of a host with two cards, and on it one model."""
    machine.configure(engine={"build": "cuda"}, models=[model()])
    facts = {"memory_gib": 251.5, "gpus": [{"index": at, **CARD} for at in range(2)], "gpu_links": []}
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps({"facts": facts, "findings": []}))
    monkeypatch.setattr(plan_sources, "MEASURED", tmp_path / "measured")
    return path


def test_on_a_host(run: Run, report: Path) -> None:
    result = run("plan", "--report", str(report))
    assert result.exit_code == 0, result.output
    assert "Planned for the hardware report." in result.output
    assert "awake always  GPU 0,1  pipeline x2" in result.output
    assert "█ awake always" in result.output


def test_for_programs(run: Run, report: Path) -> None:
    tree = json.loads(run("plan", "--report", str(report), "--json").output)
    assert tree["fits"] is True
    assert tree["models"][0]["gpus"] == [0, 1]
    assert tree["changes"] == {}
    assert tree["measured"] == {"qwen": []}


def test_what_if(run: Run, report: Path) -> None:
    result = run("plan", "--report", str(report), "--gpu", "L40S 48GB", "--host-memory", "64", "--json")
    tree = json.loads(result.output)
    assert tree["models"][0]["gpus"] == [0]
    assert tree["host"]["memory_bytes"] == 64 * 2**30


def test_what_does_not_fit(run: Run, report: Path) -> None:
    result = run("plan", "--report", str(report), "--gpu", "RTX 5060 Ti 16GB")
    assert result.exit_code == 1
    assert "models[0] (qwen) does not fit even alone: weights 14.19" in result.output
    assert "models[0].engine.quantization: awq" in result.output
    result = run("plan", "--report", str(report), "--gpu", "RTX 5060 Ti 16GB", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["fits"] is False


def test_why(run: Run, report: Path, machine: Machine) -> None:
    result = run("plan", "--report", str(report), "--explain", "qwen")
    assert result.exit_code == 0
    assert "The layers are dealt out over 2 stages in sequence" in result.output
    assert "weights" in result.output
    result = run("plan", "--report", str(report), "--explain", "qwem")
    assert result.exit_code == 2
    assert "there is no model 'qwem'; there are: qwen" in result.output
    machine.configure(engine={"build": "cuda"}, models=[model(), model("imp", runtime="transformers")])
    result = run("plan", "--report", str(report), "--explain", "imp")
    assert result.exit_code == 1
    assert "no engine for runtime transformers" in result.output


def test_the_picture(run: Run, report: Path, tmp_path: Path) -> None:
    assert run("plan", "--report", str(report), "--svg", str(tmp_path / "plan.svg")).exit_code == 0
    assert ElementTree.parse(tmp_path / "plan.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own
    result = run("plan", "--report", str(report), "--svg", str(tmp_path / "no" / "plan.svg"))
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_beside_the_deployed_plan(run: Run, report: Path, machine: Machine) -> None:
    deployed = {"residency": "cold", "gpus": [0, 1], "max_model_len": 4096, "kv_cache_bytes": 2**30}
    deployed |= {"pipeline_parallel_size": 2, "gpu_memory_utilization": 0.9}
    machine.configure(engine={"build": "cuda"}, models=[model(plan=deployed)])
    result = run("plan", "--report", str(report))
    assert "qwen: deployed is residency cold, max_model_len 4096, " in result.output
    assert "this plan: residency resident, max_model_len 32768, " in result.output
    tree = json.loads(run("plan", "--report", str(report), "--json").output)
    assert tree["changes"]["qwen"]["deployed"].startswith("residency cold")


def test_what_was_measured_stands_beside_what_was_predicted(run: Run, report: Path, tmp_path: Path) -> None:
    found = Measurement(
        model="qwen",
        variant=variant_of(Model.model_validate(model())),
        device=str(CARD["name"]),
        tensor_parallel_size=1,
        pipeline_parallel_size=2,
        vllm="0.33.0",
        weights=7 * 2**30,
        kv_cache=2**30,
        total=9 * 2**30,
    )
    (tmp_path / "measured" / "qwen").mkdir(parents=True)
    (tmp_path / "measured" / "qwen" / "measured.json").write_text(found.dump())
    result = run("plan", "--report", str(report))
    assert "qwen, predicted beside measured:" in result.output
    assert "weights  7.1 GiB    7.0 GiB" in result.output
    tree = json.loads(run("plan", "--report", str(report), "--json").output)
    weights, in_all = tree["measured"]["qwen"]
    assert (weights["term"], weights["measured_bytes"]) == ("weights", 7 * 2**30)
    assert (in_all["term"], in_all["measured_bytes"]) == ("in all", 9 * 2**30)
    terms = {term["name"]: term["bytes"] for term in tree["models"][0]["workers"][0]["terms"]}
    # As the arithmetic has it, whatever the plan took instead.
    others = sum(terms[name] for name in ("activation", "CUDA graphs", "communication"))
    assert in_all["predicted_bytes"] > weights["predicted_bytes"] + 2**30 + others


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpu", "two big ones"], "write it like '2x RTX 5060 Ti 16GB'"),
        (["--gpu", "-2x L4 24GB"], "-2 is no number of GPUs"),
        (["--host", "llm-1"], "say which, with --inventory"),
        (["--report", "/nowhere/hardware.json"], "there is no hardware report; deploy with --tags hardware"),
        (["--report", __file__], "cannot be read"),
        (["--host-memory", "-5"], "--host-memory"),
        (["--inventory", "/nowhere"], "/nowhere"),
        (["--inventory", EXAMPLE, "--host", "llm-9"], "there is no host 'llm-9'; there are: llm-1"),
    ],
)
def test_wrong_usage(run: Run, report: Path, arguments: list[str], says: str) -> None:
    result = run("plan", *arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_broken_report_is_named(run: Run, report: Path) -> None:
    report.write_text('{"facts": {"memory_gib": 64, "gpus": [{"index": 0, "memory_mib": -1}]}}')
    result = run("plan", "--report", str(report))
    assert result.exit_code == 2
    assert "facts.gpus[0].memory_mib: must be a number above 0, not -1" in result.output


def test_models_without_numbers_are_all_named(run: Run, report: Path, machine: Machine) -> None:
    bare = {"name": "bare", "source": {"kind": "folder", "path": "/x"}}
    broken = model("broken", architecture={**SHAPE, "hidden_size": -5})
    machine.configure(engine={"build": "cuda"}, models=[model(), bare, broken])
    result = run("plan", "--report", str(report))
    assert result.exit_code == 2
    assert "models[1].architecture" in result.output
    assert "models[2].architecture" in result.output


def test_on_the_cpu_build_the_host_is_the_device(run: Run, report: Path, machine: Machine) -> None:
    machine.configure(models=[model()])
    result = run("plan", "--host-memory", "64")
    assert result.exit_code == 0, result.output
    assert "CPU" in result.output
    result = run("plan", "--gpu", "L4 24GB")
    assert result.exit_code == 2
    assert "runs on no GPU" in result.output


def test_the_example_inventory(run: Run) -> None:
    """Real: Ansible reads it, and the four models are planned on the reference server."""
    result = run("plan", "--inventory", EXAMPLE, "--json")
    assert result.exit_code == 0, result.output
    tree = json.loads(result.output)
    assert len(tree["devices"]) == 2
    assert [each["name"] for each in tree["models"]] == [
        "phi-3-mini-4k-instruct",
        "Qwen-Coder-DeepSeek-R1-14B",
        "Nous-Hermes-2-Mixtral-8x7B-DPO",
    ]
    assert [each["name"] for each in tree["not_served"]] == ["imp-v1-3b"]
    assert tree["models"][0]["entry"] == "citadel_models[0]"


def test_the_docs_show_what_the_command_says(run: Run, tmp_path: Path) -> None:
    """When this fails, run the command in docs/placement.md anew, and put its output there."""
    result = run("plan", "--inventory", EXAMPLE, "--svg", str(tmp_path / "plan.svg"))
    assert result.output in (PROJECT / "docs" / "placement.md").read_text()
    drawn = (PROJECT / "docs" / "images" / "plan-example.svg").read_text()
    assert (tmp_path / "plan.svg").read_text() == drawn


def inventory(folder: Path, hosts: int = 1, **variables: Any) -> str:
    (folder / "group_vars" / "all").mkdir(parents=True)
    tree: dict[str, Any] = {"citadel": {"hosts": {f"llm-{at}": {} for at in range(1, hosts + 1)}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(tree))
    (folder / "group_vars" / "all" / "site.yml").write_text(yaml.safe_dump(variables))
    return str(folder)


def test_templates_in_an_inventory_are_resolved(run: Run, tmp_path: Path) -> None:
    where = inventory(
        tmp_path / "inventory",
        citadel_models=[model(aliases=["{{ short }}"])],
        short="q",
        hardware_profile={"memory_gib": "{{ 8 * 16 }}", "gpus": {"count": 1, "name": "L4", "memory_gib": 24}},
    )
    result = run("plan", "--inventory", where, "--explain", "q")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("qwen (citadel_models[0])")


def test_a_template_that_cannot_be_resolved_is_named(run: Run, tmp_path: Path) -> None:
    where = inventory(tmp_path / "i", citadel_models="{{ our_models }}", hardware_profile={"memory_gib": 64})
    result = run("plan", "--inventory", where)
    assert result.exit_code == 2
    assert "'our_models' is undefined" in result.output
    assert "plays" not in result.output


def test_an_inventory_on_a_machine_that_was_reported(run: Run, report: Path, tmp_path: Path) -> None:
    where = inventory(tmp_path / "i", citadel_models=[model()])
    result = run("plan", "--inventory", where, "--report", str(report))
    assert result.exit_code == 0, result.output
    assert "Planned for the hardware report." in result.output
    assert "awake always  GPU 0,1  pipeline x2" in result.output


def test_an_inventory_that_is_wrong_names_its_variable(run: Run, tmp_path: Path) -> None:
    profile = {"memory_gib": 64, "gpus": {"count": 1, "name": "L4", "memory_gib": 24}}
    where = inventory(tmp_path / "i", citadel_models=[model(residency="sometimes")], hardware_profile=profile)
    result = run("plan", "--inventory", where)
    assert result.exit_code == 2
    assert "citadel_models[0].residency" in result.output
    shape = {**SHAPE, "hidden_size": -5, "num_hidden_layers": 0}
    where = inventory(tmp_path / "j", citadel_models=[model(architecture=shape)], hardware_profile=profile)
    result = run("plan", "--inventory", where)
    # Each mistake once, and nothing that merely follows from one.
    assert result.output.count("hidden_size") == 1, result.output
    assert "and citadel_models[0].architecture.num_hidden_layers: " in result.output


def test_an_inventory_without_a_machine_needs_to_be_told(run: Run, tmp_path: Path) -> None:
    where = inventory(tmp_path / "i", 2, citadel_models=[model()])
    assert "say which host is meant, with --host: llm-1, llm-2" in run("plan", "-i", where).output
    result = run("plan", "-i", where, "--host", "llm-1")
    assert result.exit_code == 2
    assert "use --host-memory" in result.output
    result = run("plan", "-i", where, "--host", "llm-1", "--host-memory", "64")
    assert "use --gpu" in result.output
    result = run("plan", "-i", where, "--host", "llm-1", "--host-memory", "64", "--gpu", "L4 24GB")
    assert result.exit_code == 0, result.output
