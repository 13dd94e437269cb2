"""Our own gateway among the contenders, as an operator sets it up."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from bench import messages, processes
from bench.contender import Contender, Engine, said
from bench.figures import WORKERS
from bench.peers import ROOT
from bench.processes import Started

GATEWAY = "citadel"
_MANY = 1_000_000_000


def gateway(engine: Engine, workers: int = 0, store: str = "") -> Contender:
    """Our gateway: one process, or so many workers on cores of their own, which count limits in a store."""
    name = WORKERS[workers] if workers else GATEWAY
    directory = engine.folder / f"config-{name.replace(' ', '-')}"
    key_file = engine.folder / "key"
    python = [sys.executable, "-m", "citadel_llm.cli"]
    environment = {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(folder: Path, port: int, core: int) -> Started:
        _write_settings(directory, engine, folder, port, workers=workers or 1, store=store)
        if not key_file.exists():
            create = [*python, "keys", "create", "--name", "bench", "--write-to", str(key_file)]
            done = subprocess.run(  # noqa: S603
                create,
                env={**os.environ, **environment, "CITADEL_CONFIG": str(directory)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"no key could be made: {done.stderr.strip()[-500:]}")
        command: list[str | Path] = [*python, "run", "gateway", "--directory", directory]
        log = folder / "log.jsonl"
        if workers:
            places = [core, *(other for other in processes.cores() if other != core)]
            command = [sys.executable, "-m", "bench.workers", directory, folder, *map(str, places[:workers])]
            path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
            return processes.start(
                name, command, core=core, log=log, environment={**environment, "PYTHONPATH": path}
            )
        return processes.start(name, command, core=core, log=log, environment=environment)

    def version() -> str:
        version = re.search(r'__version__ = "(.+)"', (ROOT / "src/citadel_llm/__init__.py").read_text())
        commit = said(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"])
        changed = said(["git", "-C", str(ROOT), "status", "--porcelain", "--", "src"])
        told = version[1] if version else "?"
        return f"{told} ({commit}{', with changes' if changed else ''})" if commit else told

    settings = (
        "`citadel run gateway`, one process; a key made by `citadel keys`, limits of requests, tokens and "
        "requests at once counted in memory (high enough never to refuse), accounting to spool and SQLite, a "
        "JSON log line for each request to a file, metrics, active checks; engine on a unix socket"
    )
    return Contender(name, settings, start, version, lambda: key_file.read_text().strip())


def _write_settings(
    directory: Path, engine: Engine, folder: Path, port: int, *, workers: int = 1, store: str = ""
) -> None:
    """Write what an operator would: the site's layer, with limits, accounting and a database of its own."""
    settings = {
        "environment": "production",
        "run_dir": str(engine.folder),
        "logging": {"level": "info", "format": "json"},
        "engine": {"build": "cpu"},
        "models": [
            {
                "name": messages.MODEL,
                "source": {"kind": "folder", "path": "/srv/weights"},
                "engine": {"max_model_len": 131072},
            }
        ],
        "gateway": {
            "address": "127.0.0.1",
            "port": port,
            "workers": workers,
            # One database for all of its starts, as the key is in it.
            "database": f"sqlite:///{engine.folder}/citadel.db",
            "drain_timeout_seconds": 1,
            "limits": {
                "requests_per_minute": _MANY,
                "tokens_per_minute": _MANY * 1000,
                "concurrent_requests": 100_000,
                **({"store": store} if store else {}),
            },
            "accounting": {"spool_dir": str(folder / "spool")},
            "admission": {"running_per_engine": 4096},
        },
    }
    (directory / "global").mkdir(parents=True, exist_ok=True)
    # JSON is YAML.
    (directory / "global" / "site.yml").write_text(json.dumps(settings), encoding="utf-8")
