"""What the plan's action plugin hands over and returns; the arithmetic has tests of its own."""

import pytest

from citadel_llm.config import EnginePlan, Settings
from citadel_llm.config.inventory import said_of_variables

from .role_modules import ROOT, load

plugin = load("roles/citadel/action_plugins/citadel_plan.py")

PLAN = EnginePlan(
    residency="warm", gpus=(0, 1), pipeline_parallel_size=2, max_model_len=4096, kv_cache_bytes=3 << 29
)
SOURCE = {"kind": "folder", "path": "/x"}


def test_the_hosts_memory_and_gpus_are_what_the_report_would_say():
    gpus = {"gpus": [{"index": 0}], "links": [{"gpus": [0, 1]}]}
    report = plugin.host_report("MemTotal:       263567616 kB\nMemFree: 1 kB\n", gpus)
    assert report == {"facts": {"memory_gib": 251.4, "gpus": [{"index": 0}], "gpu_links": [{"gpus": [0, 1]}]}}


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_the_version_of_vllm_is_the_locks(build):
    version = plugin.locked_vllm(ROOT / "src", build)
    assert version
    assert version[0].isdigit()


def test_messages_speak_of_the_inventorys_variables():
    message = "models[0].engine: ...; set models[1].residency or citadel_models[2], my.models[3]"
    assert said_of_variables(message) == (
        "citadel_models[0].engine: ...; set citadel_models[1].residency or citadel_models[2], my.models[3]"
    )


def test_a_host_without_gpus_is_told_why_and_what_would_do():
    said = plugin.without_gpus({"reason": "nouveau holds the card", "remedy": "Install the driver"})
    assert "nouveau holds the card. Install the driver; or name the GPUs" in said
    assert said.endswith("Nothing was changed.")


def test_each_entry_of_the_catalogue_gets_its_plan():
    models = [{"name": "a", "source": SOURCE}, {"name": "imp", "runtime": "transformers"}]
    first, second = plugin.planned(models, {"a": PLAN})
    assert first["source"] == SOURCE
    assert first["plan"]["gpus"] == [0, 1]
    assert second == models[1]


def test_the_table_shows_each_model():
    settings = Settings.model_validate(
        {
            "environment": "staging",
            "models": [
                {"name": "a", "source": SOURCE},
                {"name": "imp", "source": SOURCE, "runtime": "transformers"},
            ],
        }
    )
    assert plugin.short_table(settings, {"a": PLAN}) == [
        "MODEL  RESIDENCY                               GPUS  LAYOUT   CONTEXT  KV CACHE",
        "a      warm                                    0,1   tp1 pp2  4096     1.50 GiB",
        "imp    not served: no engine for transformers",
    ]
