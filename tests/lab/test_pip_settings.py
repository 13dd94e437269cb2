import configparser
import tomllib
from pathlib import Path

import pytest
from citadel_lab import pip_settings
from citadel_lab.pip_settings import PipSettings


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / ".config/pip").mkdir(parents=True)
    return folder


def test_nothing_configured_hands_over_only_where_torchs_cpu_builds_are(etc: Path, home: Path) -> None:
    settings = pip_settings.read({"HOME": str(home)}, etc)
    assert settings.values == {}
    assert settings.for_uv() == 'find-links = ["https://download.pytorch.org/whl/cpu/torch/"]\n'
    assert settings.local_paths == []
    assert settings.certificate is None


def test_the_user_is_heard_over_the_machine_and_the_environment_over_both(etc: Path, home: Path) -> None:
    (etc / "pip.conf").write_text(
        "[global]\ncert = /machine.pem\nfind-links = /machine\nproxy = http://machine\n"
    )
    (home / ".config/pip/pip.conf").write_text("[global]\nfind_links = /user\nproxy = http://user\n")
    settings = pip_settings.read({"HOME": str(home), "PIP_PROXY": "http://environment"}, etc)
    assert settings.values == {"cert": "/machine.pem", "find-links": "/user", "proxy": "http://environment"}


def test_a_file_named_by_the_environment_wins_and_dev_null_silences_all(
    etc: Path, home: Path, tmp_path: Path
) -> None:
    (etc / "pip.conf").write_text("[global]\ncert = /machine.pem\n")
    named = tmp_path / "named.conf"
    named.write_text("[install]\ncert = /named.pem\n")
    environment = {"HOME": str(home)}
    assert (
        pip_settings.read({**environment, "PIP_CONFIG_FILE": str(named)}, etc).values["cert"] == "/named.pem"
    )
    assert pip_settings.read({**environment, "PIP_CONFIG_FILE": "/dev/null"}, etc).values == {}


def test_what_concerns_only_this_machine_is_not_handed(etc: Path, home: Path) -> None:
    environment = {
        "HOME": str(home),
        "PIP_CACHE_DIR": "/c",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_DEFAULT_TIMEOUT": "9",
    }
    assert pip_settings.read(environment, etc).values == {"timeout": "9"}


def test_folders_and_file_urls_on_disk_are_bound_once(tmp_path: Path) -> None:
    wheels, index = tmp_path / "the wheels", tmp_path / "index"
    for folder in (wheels, index / "simple"):
        folder.mkdir(parents=True)
    settings = PipSettings(
        {
            "find-links": f"file://{str(wheels).replace(' ', '%20')} /not/there https://example.org/wheels",
            "index-url": "https://example.org/simple",
            "extra-index-url": f"file://{index}/simple file://{index}",
        }
    )
    assert settings.local_paths == [index, wheels]


def test_pip_is_told_the_same_with_the_hosts_own_bundle() -> None:
    settings = PipSettings({"cert": "/controller.pem", "find-links": "/a\n/b"})
    parser = configparser.RawConfigParser()
    parser.read_string(settings.for_pip(Path("/host.pem")))
    assert dict(parser["global"]) == {"cert": "/host.pem", "find-links": "/a /b"}


def test_uv_is_told_where_to_find_what_no_index_has() -> None:
    settings = PipSettings(
        {
            "cert": "/c",
            "find-links": "/a /b",
            "index-url": "https://i/",
            "extra-index-url": "file:///x",
            "no-index": "1",
        }
    )
    assert tomllib.loads(settings.for_uv()) == {
        "find-links": ["/a", "/b"],
        "index-url": "https://i/",
        "no-index": True,
        "system-certs": True,
    }
