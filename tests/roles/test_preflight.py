"""Each kind of bad input stops the real site.yml, on this machine, before a task of any role has run.

One run for all cases: each is a host of its own, with its own bad variables, and all are this machine. It is
a run in check mode, so that a check that lets something through changes nothing.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.certificates import make_certificate

from .role_modules import ROOT

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
PACKAGE = {"kind": "package", "package": "p", "version": "1", "path": "w.gguf", "sha256": "0" * 64}


class Case(NamedTuple):
    """Bad variables, what the message must say, and the task that must say it."""

    variables: dict[str, Any]
    messages: list[str]
    last: str


def model(name="a", source=PACKAGE, **other):
    return {"name": name, "source": source, **other}


def tls(certificate, key):
    """`gateway.tls` with what the fixture makes: pairs that are valid, or have ended."""
    pair = "{{ case_folder }}/%s/%s.pem"
    return {"certificate": pair % (certificate, "cert"), "key": {"file": pair % (key, "key")}}


def run_site(folder, *arguments):
    """Run site.yml in check mode; return for each host the tasks that ran, in order, with their results."""
    environment = os.environ | {
        "ANSIBLE_ANY_ERRORS_FATAL": "false",
        "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(
        [PLAYBOOK, "--check", *arguments, "site.yml"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0, done.stdout
    tasks: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for task in json.loads(done.stdout)["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            tasks.setdefault(host, []).append((task["task"]["name"], result))
    return tasks


CHECK_VARIABLES = "Check all variables of all roles"
CHECK_RELATIONS = "Check the catalogue and what else must fit together"


PLAN = "Plan where each model runs, with how much memory"
# Of microsoft/Phi-3-mini-4k-instruct: 7.12 GiB of weights.
PHI_3 = {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
ONE_CARD = {"memory_gib": 1, "gpus": {"count": 1, "name": "RTX 5060 Ti", "memory_gib": 16}}


CASES = {
    "a misspelt variable": Case(
        {"citadel_api_prot": 8001},
        ["citadel_api_prot is 8001", "did you mean citadel_api_port?"],
        CHECK_VARIABLES,
    ),
    "an unknown variable": Case(
        {"monitoring_frobnicate": 1},
        ["monitoring_frobnicate is 1", "no variable has this name"],
        CHECK_VARIABLES,
    ),
    "wrong types of several roles at once": Case(
        {"citadel_api_port": "eighty", "python_env_keep": [], "citadel_environment": "prod"},
        [
            "citadel_api_port is 'eighty': it must be a whole number, such as 8000 (the default)",
            "python_env_keep is []: it must be a whole number",
            "citadel_environment is 'prod': it must be one of development, staging, production",
        ],
        CHECK_VARIABLES,
    ),
    "a template that cannot be": Case(
        {"citadel_root": "{{ nowhere }}/citadel"},
        ["citadel_root is '{{ nowhere }}/citadel': it cannot be evaluated", "'nowhere' is undefined"],
        CHECK_VARIABLES,
    ),
    "a name twice in the catalogue": Case(
        {"citadel_models": [model(), model()]},
        ["citadel_models[1].name", "'a' is already a name of a"],
        CHECK_RELATIONS,
    ),
    "two services on one port": Case(
        {"citadel_api_port": 9090},
        ["monitoring_prometheus_port: it is 9090, and so is citadel_api_port", "9091 would do"],
        CHECK_RELATIONS,
    ),
    "a privilege that is refused": Case(
        {"ansible_become_user": "nobody", "ansible_become_method": "su"},
        ["tasks cannot be run there as root", "--ask-become-pass", "ansible_user"],
        "Say which privilege is missing",
    ),
    "a privilege that was not asked for": Case(
        {
            "ansible_become_user": "nobody",
            "ansible_become_method": "su",
            "ansible_become_flags": "--shell /bin/sh",
            # One that others than root may run, unlike perhaps the controller's.
            "ansible_python_interpreter": "/usr/bin/python3",
        },
        [
            "tasks run there as nobody, not as root",
            "Set ansible_become to true and ansible_become_user to root",
        ],
        "Stop unless the tasks run as root",
    ),
    "an unsupported system": Case(
        {"citadel_supported_systems": [{"distribution": "Plan9", "versions": ["4"]}]},
        [" runs ", "Supported (citadel_supported_systems) are Plan9 4"],
        "Stop unless the operating system is supported",
    ),
    "sources that do not exist": Case(
        {
            "citadel_check_sources": True,
            "citadel_models": [
                model("a", {"kind": "folder", "path": "/no/such/weights"}),
                model("b", {"kind": "folder", "path": "/etc"}),
            ],
        },
        [
            "a: source.path is /no/such/weights: there is no such folder on the host",
            "b: source.path is /etc: there is no config.json in it",
        ],
        "Stop when a model's source does not exist",
    ),
    "models that nothing is known of": Case(
        {
            "citadel_models": [
                model("a"),
                model("b", architecture=PHI_3 | {"hidden_size": -3072}),
                model("c", architecture={"model_type": "phi3"}),
            ]
        },
        [
            "3 of the models cannot be planned with. Nothing was changed.",
            "citadel_models[0].architecture: must be set for a, whose weights are not here yet",
            "citadel_models[1].architecture.hidden_size: must be a whole number above 0, not -3072",
            "citadel_models[2].architecture.",
        ],
        PLAN,
    ),
    "models that do not fit": Case(
        {
            "citadel_engine_build": "cuda",
            "hardware_profile": ONE_CARD,
            "citadel_models": [
                model("a", architecture=PHI_3, residency="resident"),
                model("b", architecture=PHI_3, residency="resident"),
            ],
        },
        [
            "GPU 0: 14.65 GiB usable",
            "a: weights 7.12 + KV cache 1.51",
            "GiB too much",
            "citadel_models[0].residency: auto, citadel_models[1].residency: auto",
            "Nothing was changed.",
        ],
        PLAN,
    ),
    "no card to plan with": Case(
        {"citadel_engine_build": "cuda", "citadel_models": [model("a", architecture=PHI_3)]},
        ["the host has no GPU to plan with", "hardware_profile.gpus", "set citadel_engine_build to cpu"],
        PLAN,
    ),
    "an interpreter that is not there": Case(
        {"python_env_interpreter": "/usr/bin/no-such-python"},
        ["python_env_interpreter is /usr/bin/no-such-python", "a Python 3.11 or newer"],
        "Stop unless the chosen interpreter can be used",
    ),
    "a group that leads to root": Case(
        {"citadel_user_groups": ["audio", "docker"]},
        ["citadel_user_groups holds docker", "its members can become root"],
        "Stop when a group would make the operator root",
    ),
    "a key that is none": Case(
        {"citadel_user_authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA x", "hello"]},
        ["citadel_user_authorized_keys", "not each is a public key"],
        "Stop when a public key is none",
    ),
    "a database with its password in the URL": Case(
        {"postgresql_state": "external", "postgresql_url": "postgresql://u:secret@db.example.com/d"},
        ["postgresql_url holds a password", "set postgresql_password"],
        "Stop unless the URL of the external database is one",
    ),
    "a store where the host is not": Case(
        {
            "valkey_state": "present",
            "valkey_host": "a-store-where-the-host-is-not",
            "valkey_address": "192.0.2.200",
        },
        ["has no address 192.0.2.200", "Set valkey_address", "valkey_listen_addresses"],
        "Stop when the store cannot listen where it should",
    ),
    "settings of the gateway that there are not": Case(
        {"config_gateway": {"limits": {"requests_per_minut": 5}, "accounting": {"keep_days": 0}}},
        [
            "gateway.limits.requests_per_minut: there is no such setting",
            "did you mean 'requests_per_minute'?",
            "gateway.accounting.keep_days: must be greater than or equal to 1, not 0",
            "correct gateway.x in config_gateway.x",
            "Nothing was changed.",
        ],
        "Let the application's own schema judge the configuration",
    ),
    "a certificate that the host does not have": Case(
        {"config_gateway": {"tls": {"certificate": "/no/such.pem", "key": {"credential": "no-such-key"}}}},
        [
            "has no /no/such.pem, /etc/citadel/credentials/no-such-key, which config_gateway.tls names",
            "Put the certificate at /no/such.pem and its key",
        ],
        "Stop when one of them is not there",
    ),
    "a certificate that has ended": Case(
        {"config_gateway": {"tls": tls("ended", "ended")}},
        ["/ended/cert.pem on a-certificate-that-has-ended ended on 2", "config_gateway.tls"],
        "Stop when clients would refuse it",
    ),
    "a key of another certificate": Case(
        {"config_gateway": {"tls": tls("valid", "ended")}},
        ["/ended/key.pem on a-key-of-another-certificate is not the key of", "/valid/cert.pem", "mismatch"],
        "Stop when they do not belong together",
    ),
    "a certificate that is none": Case(
        {"config_gateway": {"tls": {"certificate": "/etc/hostname", "key": {"file": "/etc/hostname"}}}},
        ["/etc/hostname on a-certificate-that-is-none is no certificate in PEM", "config_gateway.tls"],
        "Stop when clients would refuse it",
    ),
    "nobody could log in": Case(
        {"citadel_user_authorized_keys_exclusive": True},
        ["citadel_user_authorized_keys is []", "Name at least one key"],
        "Stop when the operator would be locked out",
    ),
}


pytestmark = [
    # Runs Ansible: that takes seconds.
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can unasked"),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What happened to each case."""
    folder = tmp_path_factory.mktemp("site")
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "citadel_engine_build": "cpu",
        "citadel_check_sources": False,
        "case_folder": str(folder),
    }
    for name, days in {"valid": 1, "ended": -1}.items():
        (folder / name).mkdir()
        make_certificate(folder / name, days=days)
    hosts = {name.replace(" ", "-"): host | case.variables for name, case in CASES.items()}
    (folder / "hosts.json").write_text(json.dumps({"citadel": {"hosts": hosts}}))
    return run_site(folder, f"--inventory={folder}/hosts.json", f"--forks={len(hosts)}")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_stops_before_anything_is_touched(outcomes, name):
    case = CASES[name]
    tasks = outcomes[name.replace(" ", "-")]
    last, result = tasks[-1]
    last = last.rpartition(" : ")[2]
    assert last == case.last
    for message in case.messages:
        assert message in " ".join(result["msg"].split())
    assert not any(result.get("changed") for _, result in tasks)


def test_the_example_inventory_is_sound(tmp_path):
    """Nothing that needs no host is wrong with it: it gets as far as the missing privilege."""
    # Root that shall become root is left as it is: only another user makes becoming fail here.
    become = {"ansible_become_exe": "/bin/false", "ansible_become_user": "nobody"}
    extra = json.dumps({"ansible_connection": "local", **become})
    (tasks,) = run_site(tmp_path, "--inventory=inventories/example", f"--extra-vars={extra}").values()
    assert tasks[-1][0] == "citadel : Say which privilege is missing"
