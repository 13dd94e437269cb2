"""What the plan said beside what the real engine took; and a model that runs when somebody asks for it."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from deployed import EMBEDDING_MODEL, MODEL, PROJECT
from openai import OpenAI
from testinfra.host import Host

from citadel_llm.placement.calibration import Measurement

Plans = dict[str, dict[str, Any]]

ENGINE_PYTHON = "/opt/citadel/envs/engine/bin/python"
SCRIPTS = ("measure_published_models", "measure_kv_cache")
# vLLM's KV cache on the CPU is dealt out in blocks of so many tokens.
CPU_BLOCK = 128
# Of SmolLM2's published shape: keys and values of 30 layers with 3 heads of 64 numbers in bfloat16.
BYTES_A_TOKEN = 2 * 30 * 3 * 64 * 2


def citadel(host: Host, command: str, *, fails: bool = False) -> str:
    """What a command says to the operator, who is not root."""
    with host.sudo():
        done = host.run(f"runuser --login citadel --command 'citadel {command}'")
    assert (done.rc != 0) == fails, done.stdout + done.stderr
    return str(done.stderr if fails else done.stdout).strip()


@pytest.fixture(scope="module")
def measured(host: Host) -> Measurement:
    """What the resident model's engine wrote down at its start."""
    text = host.file(f"/var/lib/citadel/engine/{MODEL}/measured.json").content_string
    measurement = Measurement.parse(text)
    assert measurement is not None, text
    return measurement


@pytest.fixture(scope="module")
def planned(host: Host) -> Plans:
    """The plan as the operator sees it, by models."""
    return {model["name"]: model for model in json.loads(citadel(host, "plan --json"))["models"]}


def test_the_kv_cache_holds_as_many_tokens_as_the_plan_reckoned(measured: Measurement) -> None:
    assert measured.kv_cache_tokens is not None
    assert measured.kv_cache is not None
    blocks = measured.kv_cache // (CPU_BLOCK * BYTES_A_TOKEN)
    assert measured.kv_cache_tokens == blocks * CPU_BLOCK


def test_the_plans_requests_at_once_are_vllms(measured: Measurement, planned: Plans) -> None:
    plan = planned[MODEL]
    assert measured.kv_cache_tokens is not None
    assert plan["requests_at_once"] == math.floor(measured.kv_cache_tokens / plan["max_model_len"])


def test_the_engine_takes_no_more_than_was_planned(measured: Measurement, planned: Plans) -> None:
    [worker] = planned[MODEL]["workers"]
    assert measured.total is not None
    # Some of it is the libraries' own, and varies with what the machine has.
    assert 0.75 < measured.total / worker["awake_bytes"] < 1.02


def test_the_weights_are_as_many_as_the_plan_reckoned(host: Host, planned: Plans) -> None:
    path = f"/mnt/nvme0n1/models/{MODEL}/model.safetensors"
    code = (
        "import json, math, struct, sys; f = open(sys.argv[1], 'rb'); "
        "h = json.loads(f.read(struct.unpack('<Q', f.read(8))[0])); h.pop('__metadata__', None); "
        "print(sum(math.prod(t['shape']) for t in h.values()))"
    )
    with host.sudo():
        parameters = int(host.check_output(f"python3 -c %s {path}", code))
    assert planned[MODEL]["parameters"] == parameters


@pytest.fixture
def published(host: Host) -> Iterator[str]:
    """Where published shapes and the scripts that ask torch and vLLM about them are, on the host."""
    folder = "/var/tmp/citadel-published"  # noqa: S108 - the lab host's own
    scripts = [f"scripts/{script}.py" for script in SCRIPTS]
    for what in (*scripts, "tests/placement/published"):
        copied = host.ansible(
            "ansible.builtin.copy", f"src={PROJECT / what} dest={folder}/", check=False, become=True
        )
        assert "checksum" in copied or copied["dest"], copied
    yield folder
    host.ansible("ansible.builtin.file", f"path={folder} state=absent", check=False, become=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_published_models_are_held_to_is_as_recorded(host: Host, published: str, script: str) -> None:
    """In the engine's environment: models on torch's meta device, and vLLM's own classes for KV caches."""
    command = f"{ENGINE_PYTHON} {published}/{script}.py --check --published {published}/published"
    with host.sudo():
        said = host.check_output(f"env HF_HUB_OFFLINE=1 {command}").splitlines()[-1]
    right, all_of_them = (int(word) for word in said.split()[:3:2])
    assert right == all_of_them >= 20


def models_on_demand(host: Host) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in json.loads(citadel(host, "models --json"))}


def test_a_model_on_demand_is_brought_up_by_the_first_request_for_it(host: Host, client: OpenAI) -> None:
    rows = {row["name"]: row for row in json.loads(citadel(host, "status --json"))}
    assert rows[EMBEDDING_MODEL]["state"] == "stopped"
    assert rows["manager"]["state"] == "running"
    assert models_on_demand(host)[EMBEDDING_MODEL]["state"] == "cold"
    assert {model.id: model.to_dict()["state"] for model in client.models.list()}[EMBEDDING_MODEL] == "asleep"
    sentences = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell sharply today."]
    patient = client.with_options(timeout=300)
    answer = patient.embeddings.create(model=EMBEDDING_MODEL, input=sentences, encoding_format="float")
    cat, kitten, market = (item.embedding for item in answer.data)
    assert len(cat) == 384

    def cosine(one: list[float], other: list[float]) -> float:
        product = sum(a * b for a, b in zip(one, other, strict=True))
        return product / math.hypot(*one) / math.hypot(*other)

    assert cosine(cat, kitten) > cosine(cat, market) + 0.2
    row = models_on_demand(host)[EMBEDDING_MODEL]
    assert (row["state"], row["brought_up"]) == ("awake", 1)


def test_the_operator_sends_it_away_and_is_told_what_cannot_be(host: Host) -> None:
    """By the manager, over its socket, with the operator's own rights."""
    said = citadel(host, f"models load {EMBEDDING_MODEL}")
    assert said.startswith(f"{EMBEDDING_MODEL}: awake, after ")
    citadel(host, f"models pin {EMBEDDING_MODEL}")
    refused = citadel(host, f"models unload {EMBEDDING_MODEL}", fails=True)
    assert f"citadel models unpin {EMBEDDING_MODEL}" in refused
    citadel(host, f"models unpin {EMBEDDING_MODEL}")
    citadel(host, f"models unload {EMBEDDING_MODEL}")
    assert models_on_demand(host)[EMBEDDING_MODEL]["state"] == "cold"
    assert MODEL in citadel(host, f"models load {MODEL}", fails=True)
