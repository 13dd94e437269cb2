import os
import shutil
import sys
from pathlib import Path

import pytest

from .modules import ROOT, Result, Run, load

WHEEL = "roles/services/library/citadel_wheel.py"
RELEASE = "roles/services/library/citadel_release.py"
release = load(RELEASE)
wheel = load(WHEEL)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "citadel"


def install(base: Path, name: str, *, age: int = 0, complete: bool = True) -> Path:
    """A release as it stands on a host, `age` seconds old."""
    folder = base / "releases" / name
    (folder / "venv/bin").mkdir(parents=True)
    if complete:
        marker = folder / release.MARKER
        marker.touch()
        os.utime(marker, (10**9 - age, 10**9 - age))
    return folder


def switch(run_module: Run, base: Path, name: str, **parameters: object) -> Result:
    command = base.parent / "citadel-command"
    return run_module(RELEASE, root=str(base), release=name, command=str(command), **parameters)


def test_switches_both_links_and_is_idempotent(run_module: Run, base: Path) -> None:
    install(base, "1-a")
    assert switch(run_module, base, "1-a")["changed"] is True
    assert (base / "current").readlink() == Path("releases/1-a")
    assert (base.parent / "citadel-command").readlink() == base / "current/venv/bin/citadel-command"
    again = switch(run_module, base, "1-a")
    assert (again["changed"], again["previous"]) == (False, "1-a")


def test_a_release_that_fails_its_own_checks_is_not_used(run_module: Run, base: Path) -> None:
    install(base, "1-a")
    switch(run_module, base, "1-a")
    install(base, "2-b")
    refused = switch(
        run_module, base, "2-b", verify=[["true"], ["sh", "-c", "echo the database is too old; exit 3"]]
    )
    assert refused["failed"] is True
    assert "the database is too old" in str(refused["msg"])
    assert (base / "current").readlink() == Path("releases/1-a")


def test_a_half_built_release_is_not_used(run_module: Run, base: Path) -> None:
    install(base, "1-a", complete=False)
    assert switch(run_module, base, "1-a")["failed"] is True
    assert not (base / "current").exists()


def test_keeps_the_newest_and_removes_the_rest(run_module: Run, base: Path) -> None:
    for age, name in enumerate(("4-d", "3-c", "2-b", "1-a")):
        install(base, name, age=age)
    install(base, "5-half", complete=False)
    assert switch(run_module, base, "4-d", keep=1)["removed"] == ["1-a", "2-b", "5-half"]
    assert sorted(path.name for path in (base / "releases").iterdir()) == ["3-c", "4-d"]


def test_check_mode_says_what_it_would_do(run_module: Run, base: Path) -> None:
    install(base, "1-a")
    planned = switch(run_module, base, "2-b", check=True, keep=0)
    assert (planned["changed"], planned["removed"]) == (True, ["1-a"])
    assert (base / "releases/1-a").exists()


def test_a_release_that_still_runs_is_kept(tmp_path: Path) -> None:
    releases = tmp_path / "releases"
    process = tmp_path / "proc/42"
    process.mkdir(parents=True)
    (process / "cmdline").write_bytes(bytes(releases / "1-a/venv/bin/python") + b"\0-m\0citadel")
    (tmp_path / "proc/self").mkdir()
    used = release.used_releases(releases, tmp_path / "proc")
    assert used == {"1-a"}
    for name in ("1-a", "2-b"):
        (releases / name).mkdir(parents=True)
    assert release.outdated(releases, "3-c", 0, used) == ["2-b"]


def test_the_same_source_is_the_same_release(run_module: Run, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "src"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, project / name)
    parameters = {"project": str(project), "python": sys.executable, "cache": str(tmp_path / "cache")}

    first = run_module(WHEEL, identity=["lock"], **parameters)
    assert Path(first["path"]).is_file()
    assert first["release"].startswith(f"{first['version']}-")
    assert run_module(WHEEL, identity=["lock"], **parameters)["release"] == first["release"]
    assert run_module(WHEEL, identity=["another lock"], **parameters)["release"] != first["release"]

    with (project / "src/citadel_llm/__init__.py").open("a") as module:
        module.write("\n")
    assert run_module(WHEEL, identity=["lock"], **parameters)["release"] != first["release"]


def test_source_that_cannot_be_built_is_said_so(run_module: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'broken'\n")
    result = run_module(WHEEL, project=str(tmp_path), python=sys.executable, cache=str(tmp_path / "cache"))
    assert result["failed"] is True
    assert "cannot be built" in result["msg"]
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_of_wheels_keeps_the_newest(tmp_path: Path) -> None:
    cache = tmp_path / "wheels"
    cache.mkdir()
    places = []
    for number in range(wheel.KEPT + 3):
        built = tmp_path / "citadel_llm-1-py3-none-any.whl"
        built.write_bytes(bytes([number]))
        place, _ = wheel.keep(built, cache)
        os.utime(place.parent, (number, number))
        places.append(place)
    assert [place.exists() for place in places] == [False] * 3 + [True] * wheel.KEPT
    # One that is built again is as new as the newest.
    for content in (3, 99):
        built.write_bytes(bytes([content]))
        wheel.keep(built, cache)
    assert places[3].exists()
    assert not places[4].exists()
