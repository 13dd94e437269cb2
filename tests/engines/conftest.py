"""An engine's environment as a host has it, models, and one engine at a time: vLLM takes all cores."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from citadel_lab import pip_settings

from .collector import Collector
from .node import Node

_PROJECT = Path(__file__).parents[2]
_UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="session")
def engine_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment that holds what the CPU engine's lock names, and nothing else.

    Where CITADEL_TEST_ENGINE names one that is there already, that one: a fresh one compiles for minutes.
    """
    if given := os.environ.get("CITADEL_TEST_ENGINE"):
        yield Path(given)
        return
    folder = tmp_path_factory.mktemp("engine")
    settings = folder / "uv.toml"
    settings.write_text(pip_settings.read().for_uv())
    venv = folder / "venv"
    install = ["pip", "install", "--no-deps", "--require-hashes"]
    install += ["--python", str(venv), "--requirement", str(_PROJECT / "requirements/engine-cpu.txt")]
    for words in (["venv", "--python", "3.11", str(venv)], install):
        subprocess.run([_UV, "--quiet", "--config-file", settings, *words], check=True)
    yield venv / "bin/python"
    shutil.rmtree(venv)


@pytest.fixture(scope="session")
def models(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny models: `chat`, `rank` and `speech`."""
    folder = tmp_path_factory.mktemp("models")
    words = [engine_python, Path(__file__).with_name("tiny_models.py"), folder]
    subprocess.run(words, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Where gateways and engines send their spans."""
    made = Collector()
    yield made
    made.close()


@pytest.fixture(scope="module")
def node(
    request: pytest.FixtureRequest,
    engine_python: Path,
    models: Path,
    collector: Collector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Node]:
    """A node with the model that the module names in MODEL: its engine and its gateway run."""
    wanted: dict[str, Any] = request.module.MODEL
    engine = {"enforce_eager": True, "start_timeout": 400, "drain_timeout": 5, **wanted.get("engine", {})}
    source = {"kind": "folder", "path": str(models / wanted["name"])}
    folder = tmp_path_factory.mktemp("node")
    tree = {
        "models_root": str(models),
        "engine": {"build": "cpu", "python": str(engine_python), "cache_dir": str(folder / "cache")},
        "models": [{"source": source, **wanted, "engine": engine}],
        "gateway": {"tracing": {"endpoint": collector.url}},
    }
    made = Node(folder, tree)
    made.run("engine", wanted["name"])
    made.run("gateway")
    try:
        made.wait_for("up", within=400)
        yield made
    finally:
        made.close()
