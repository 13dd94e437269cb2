#!/usr/bin/python
"""Ask each model's source whether it exists, without fetching anything."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: citadel_model_sources
short_description: Ask each model's source whether it exists
description:
  - A folder is looked at, a package's version is asked of the package indexes that C(uv) is set to use, and a
    revision is asked of the Hugging Face hub. Nothing is changed.
  - Of a model of the hub whose entry has no C(architecture), C(config.json) and the size of the weights are
    read, for the plan that is made before they are fetched.
  - A model whose weights stand in their folder already, from this very source, is not asked about.
  - A source that cannot be asked (the network is down) is unknown, and not missing.
author: Citadel
options:
  models:
    description: Entries of the catalogue, of which C(name), C(source) and C(architecture) are used.
    type: list
    elements: dict
    required: true
  root:
    description: The folder in which each model has a folder of its name.
    type: path
    required: true
  uv:
    description: The path of C(uv). Where it is not there, packages stay unasked.
    type: path
    required: true
  hub_url:
    description: The hub's address.
    type: str
    default: https://huggingface.co
  hub_token_file:
    description: The file with the hub's token; empty for none.
    type: path
    default: ""
  timeout:
    description: How long one question may take, in seconds.
    type: int
    default: 30
attributes:
  check_mode:
    description: Only ever reads.
    support: full
"""

EXAMPLES = r"""
- name: Ask for the models' sources
  citadel_model_sources:
    models: "{{ citadel_models }}"
    root: /mnt/nvme0n1/models
    uv: /opt/citadel/tools/uv/bin/uv
"""

RETURN = r"""
missing:
  description: A sentence for each source that does not exist, with what would do.
  type: list
  elements: str
  returned: always
unknown:
  description: A sentence for each source that could not be asked, with why.
  type: list
  elements: str
  returned: always
unasked:
  description: The entries whose package could not be asked about for want of C(uv).
  type: list
  elements: dict
  returned: always
numbers:
  description: >-
    What the hub told of models, by C(repository@revision): C(config), the content of config.json, and
    C(weight_bytes), the size of the weights where the hub has an index of them.
  type: dict
  returned: always
"""

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

MANIFEST = ".citadel-weights.json"
# How uv says that an index was asked and does not have it; any other failure leaves the question open.
_NOT_THERE = ("was not found in the package registry", "there is no version of", "has no wheels with")

Model = dict[str, Any]

# What belongs to a model beside its weights is text of some kilobytes, an index of some megabytes.
_LARGEST_TEXT = 64 * 1024**2


class Verdict(NamedTuple):
    """What is known of a source.

    `state` is present, missing, unknown or unasked; `sentence` says why where it is at fault; `numbers` are
    what the hub told of a model.
    """

    state: str
    sentence: str = ""
    numbers: Model | None = None


def is_placed(model: Model, root: Path) -> bool:
    """Tell whether the model's folder holds weights from the declared source."""
    try:
        placed = json.loads((root / model["name"] / MANIFEST).read_text())["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all(placed.get(key) == value for key, value in model["source"].items() if value is not None)


def folder_verdict(path: str) -> Verdict:
    """Look for a folder in Hugging Face's layout."""
    folder = Path(path)
    if (folder / "config.json").is_file():
        return Verdict("present")
    found = "there is no config.json in it" if folder.is_dir() else "there is no such folder on the host"
    return Verdict(
        "missing", f"source.path is {path}: {found}; name a folder in Hugging Face's layout that is there"
    )


def package_verdict(requirement: str, status: int, output: str) -> Verdict:
    """Judge what uv said when it was asked to resolve the requirement."""
    if status == 0:
        return Verdict("present")
    said = " ".join(output.split())
    if any(phrase in said for phrase in _NOT_THERE):
        return Verdict(
            "missing",
            f"the package indexes do not have {requirement}; set source.package and source.version to what "
            f"they have, or python_env_indexes to an index that has it ({said})",
        )
    return Verdict("unknown", f"the package indexes could not be asked for {requirement}: {said}")


def hub_verdict(source: Model, status: int | None, reason: str) -> Verdict:
    """Judge the hub's HTTP status; None when it did not answer."""
    wanted = f"{source['repository']} at {source['revision']}"
    if status is not None and status < HTTPStatus.BAD_REQUEST:
        return Verdict("present")
    if status == HTTPStatus.NOT_FOUND:
        return Verdict(
            "missing",
            f"the hub does not have {wanted}; set source.repository and source.revision to what it has",
        )
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return Verdict(
            "missing",
            f"the hub shows {wanted} to nobody without rights to it (HTTP {status}); correct "
            "source.repository, or name a token with these rights in models_hub_token_file",
        )
    return Verdict("unknown", f"the hub could not be asked for {wanted}: {reason}")


class Asker:
    """Asks the sources, with the tools that the module's parameters name."""

    def __init__(self, module: AnsibleModule) -> None:
        """Keep the module for its parameters and for running commands."""
        self.module = module

    def ask(self, model: Model) -> Verdict:
        """Return the verdict on one model's source."""
        kinds = {"folder": self._folder, "package": self._package, "hub": self._hub}
        verdict = kinds[model["source"]["kind"]](model["source"])
        wanted = model["source"]["kind"] == "hub" and not model.get("architecture")
        if verdict.state == "present" and wanted:
            return verdict._replace(numbers=self._numbers(model["source"]))
        return verdict

    def _numbers(self, source: Model) -> Model | None:
        """Return a model's config.json and the size of its weights; none where the hub does not tell."""
        config = self._text(source, "config.json")
        if not isinstance(config, dict):
            return None
        index = self._text(source, "model.safetensors.index.json")
        metadata = index.get("metadata") if isinstance(index, dict) else None
        size = metadata.get("total_size") if isinstance(metadata, dict) else None
        return {"config": config, "weight_bytes": int(size) if size else None}

    def _text(self, source: Model, name: str) -> Any:
        """Return what a JSON file of a repository holds; none where there is none."""
        url = f"{self.module.params['hub_url']}/{source['repository']}/resolve/{source['revision']}/{name}"
        try:
            with open_url(url, timeout=self.module.params["timeout"], headers=self._headers()) as answer:
                return json.loads(answer.read(_LARGEST_TEXT))
        except (HTTPError, URLError, OSError, ValueError):
            return None

    def _headers(self) -> dict[str, str]:
        token = self.module.params["hub_token_file"]
        return {"Authorization": f"Bearer {Path(token).read_text().strip()}"} if token else {}

    def _folder(self, source: Model) -> Verdict:
        return folder_verdict(source["path"])

    def _package(self, source: Model) -> Verdict:
        uv = self.module.params["uv"]
        if not Path(uv).exists():
            return Verdict("unasked")
        requirement = f"{source['package']}=={source['version']}"
        status, out, err = self.module.run_command(
            [uv, "pip", "compile", "--quiet", "--no-cache", "--no-deps", "--no-header", "--no-build", "-"],
            data=f"{requirement}\n",
            cwd="/",
        )
        return package_verdict(requirement, status, err or out)

    def _hub(self, source: Model) -> Verdict:
        parameters = self.module.params
        url = f"{parameters['hub_url']}/api/models/{source['repository']}/revision/{source['revision']}"
        try:
            answer = open_url(url, method="HEAD", timeout=parameters["timeout"], headers=self._headers())
        except HTTPError as error:
            return hub_verdict(source, error.code, f"HTTP {error.code}")
        except (URLError, OSError) as error:
            return hub_verdict(source, None, str(error))
        return hub_verdict(source, answer.status, "")


def run(module: AnsibleModule) -> None:
    """Ask for each model whose weights are not in place."""
    root, asker = Path(module.params["root"]), Asker(module)
    verdicts = [(m, asker.ask(m)) for m in module.params["models"] if not is_placed(m, root)]
    module.exit_json(
        changed=False,
        missing=[f"{m['name']}: {verdict.sentence}" for m, verdict in verdicts if verdict.state == "missing"],
        unknown=[f"{m['name']}: {verdict.sentence}" for m, verdict in verdicts if verdict.state == "unknown"],
        unasked=[m for m, verdict in verdicts if verdict.state == "unasked"],
        numbers={
            f"{m['source']['repository']}@{m['source']['revision']}": verdict.numbers
            for m, verdict in verdicts
            if verdict.numbers is not None
        },
    )


def main() -> None:
    """Run as an Ansible module."""
    run(
        AnsibleModule(
            argument_spec={
                "models": {"type": "list", "elements": "dict", "required": True},
                "root": {"type": "path", "required": True},
                "uv": {"type": "path", "required": True},
                "hub_url": {"type": "str", "default": "https://huggingface.co"},
                # The path is no secret; what it holds is, and is never returned.
                "hub_token_file": {"type": "path", "default": "", "no_log": False},
                "timeout": {"type": "int", "default": 30},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
