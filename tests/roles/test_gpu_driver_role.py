"""What the role would install. That these packages exist under these names, build and load is not proven: the
repositories are out of reach here. That apt keeps to the branch is, with apt itself.
"""

import re
import shutil
import subprocess

import jinja2
import pytest
import yaml

from .role_modules import ROLES, load

ROLE = ROLES / "nvidia_driver"
nvidia = load("roles/nvidia_driver/filter_plugins/citadel_nvidia.py")

BASE = "https://developer.download.nvidia.com/compute/cuda/repos"


def host(distribution, version, kernel, architecture="x86_64"):
    return {
        "distribution": distribution,
        "distribution_major_version": version,
        "kernel": kernel,
        "architecture": architecture,
    }


@pytest.mark.parametrize(
    ("distribution", "kernel", "flavour"),
    [
        ("Ubuntu", "6.8.0-60-generic", "generic"),
        ("Ubuntu", "6.14.0-29-generic", "generic-hwe-24.04"),
        ("Ubuntu", "6.8.0-1029-aws", "aws"),
        ("Ubuntu", "6.8.0-60-lowlatency", "lowlatency"),
        ("Debian", "6.1.0-37-amd64", "amd64"),
        ("Debian", "6.1.0-37-cloud-amd64", "cloud-amd64"),
        ("Debian", "6.12.48+deb13-amd64", "amd64"),
        ("Debian", "6.12.48+deb13-cloud-arm64", "cloud-arm64"),
    ],
)
def test_which_of_its_kernels_a_host_runs(distribution, kernel, flavour):
    assert nvidia.flavour(host(distribution, "24", kernel)) == flavour


@pytest.mark.parametrize("kernel", ["6.12.0", "custom", "6.1.0-37"])
def test_a_kernel_of_ones_own_is_refused(kernel):
    with pytest.raises(ValueError, match="is none of Debian's"):
        nvidia.packages(host("Debian", "12", kernel), 580)


@pytest.mark.parametrize(
    ("facts", "branch", "flavour", "packages"),
    [
        (
            host("Ubuntu", "24", "6.8.0-60-generic"),
            580,
            "",
            [
                "linux-modules-nvidia-580-server-open-generic",
                "nvidia-headless-no-dkms-580-server-open",
                "nvidia-utils-580-server",
            ],
        ),
        (
            host("Ubuntu", "24", "6.17.0-1-mine"),
            595,
            "generic-hwe-24.04",
            [
                "linux-modules-nvidia-595-server-open-generic-hwe-24.04",
                "nvidia-headless-no-dkms-595-server-open",
                "nvidia-utils-595-server",
            ],
        ),
        (
            host("Debian", "12", "6.1.0-37-amd64"),
            580,
            "",
            [
                "linux-headers-6.1.0-37-amd64",
                "linux-headers-amd64",
                "nvidia-driver-cuda",
                "nvidia-kernel-open-dkms",
                "nvidia-persistenced",
            ],
        ),
    ],
)
def test_the_packages(facts, branch, flavour, packages):
    assert nvidia.packages(facts, branch, flavour) == packages


@pytest.mark.parametrize(
    ("facts", "base", "uri", "key", "origin"),
    [
        (
            host("Debian", "12", "x"),
            BASE,
            f"{BASE}/debian12/x86_64/",
            f"{BASE}/debian12/x86_64/3bf863cc.pub",
            "developer.download.nvidia.com",
        ),
        (
            host("Debian", "13", "x", "aarch64"),
            BASE,
            f"{BASE}/debian13/sbsa/",
            f"{BASE}/debian13/sbsa/8793F200.pub",
            "developer.download.nvidia.com",
        ),
        (
            host("Debian", "13", "x"),
            "http://mirror.example:8080/nvidia/",
            "http://mirror.example:8080/nvidia/debian13/x86_64/",
            "http://mirror.example:8080/nvidia/debian13/x86_64/8793F200.pub",
            "mirror.example",
        ),
    ],
)
def test_the_repository(facts, base, *, uri, key, origin):
    assert nvidia.repository(facts, base) == {"uri": uri, "key": key, "host": origin}


@pytest.mark.parametrize("facts", [host("Debian", "11", "x"), host("Debian", "13", "x", "riscv64")])
def test_where_nvidia_has_no_repository(facts):
    with pytest.raises(ValueError, match="known for Debian 12 and 13"):
        nvidia.repository(facts, BASE)


def render(template, **variables):
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701
    return environment.from_string((ROLE / "templates" / template).read_text()).render(**variables) + "\n"


PACKAGES = """\
Package: {name}
Source: {source}
Version: {version}
Architecture: all
Maintainer: Nobody <nobody@example.org>
Filename: ./{name}_{version}.deb
Size: 1
SHA256: {digest:064x}
Description: nothing

"""


@pytest.fixture
def candidate(tmp_path):
    """Ask the real apt which version of a package it would take from a repository of several branches."""
    if shutil.which("apt-cache") is None:
        pytest.skip("there is no apt here")
    lists = tmp_path / "repository"
    lists.mkdir()
    offers = [
        (name, source, version)
        for name, source in (
            ("nvidia-driver-cuda", "nvidia-graphics-drivers"),
            ("nvidia-kernel-open-dkms", "nvidia-open-gpu-kernel-modules"),
        )
        for version in ("575.57.08-1", "580.65.06-1", "580.95.05-1", "610.43.02-1")
    ]
    text = "".join(
        PACKAGES.format(name=name, source=source, version=version, digest=number)
        for number, (name, source, version) in enumerate(offers)
    )
    (lists / "Packages").write_text(text)
    for folder in ("lists/partial", "cache/archives/partial", "parts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] copy:{lists} ./\n")
    (tmp_path / "status").touch()

    def ask(preferences, package):
        (tmp_path / "preferences").write_text(preferences)
        paths = {
            "Dir::State::Lists": "lists",
            "Dir::State::status": "status",
            "Dir::Cache": "cache",
            "Dir::Etc::SourceList": "sources.list",
            "Dir::Etc::SourceParts": "parts",
            "Dir::Etc::Preferences": "preferences",
            "Dir::Etc::PreferencesParts": "parts",
        }
        options = [option for key, path in paths.items() for option in ("-o", f"{key}={tmp_path / path}")]
        options += ["-o", "APT::Sandbox::User=root"]
        subprocess.run(["apt-get", *options, "update"], check=True, capture_output=True)
        said = subprocess.run(
            ["apt-cache", *options, "policy", package], check=True, capture_output=True, text=True
        )
        return re.search(r"Candidate: (\S+)", said.stdout)[1]  # type: ignore[index]

    return ask


@pytest.mark.parametrize(
    ("branch", "version", "taken"),
    [(580, "", "580.95.05-1"), (575, "", "575.57.08-1"), (580, "580.65.06", "580.65.06-1")],
)
@pytest.mark.parametrize("package", ["nvidia-driver-cuda", "nvidia-kernel-open-dkms"])
def test_apt_keeps_to_the_branch(candidate, package, *, branch, version, taken):
    preferences = render(
        "apt/preferences.d/citadel-nvidia.j2",
        nvidia_driver_branch=branch,
        nvidia_driver_version=version,
        __nvidia_driver_source={"host": "developer.download.nvidia.com"},
    )
    assert candidate("", package) == "610.43.02-1"
    assert candidate(preferences, package) == taken


def test_nouveau_is_kept_away():
    lines = render("modprobe.d/citadel-nvidia.conf.j2").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "blacklist nouveau",
        "options nouveau modeset=0",
    ]


def test_ubuntus_persistence_daemon_is_told_to_keep_the_gpus_awake(tmp_path):
    text = render("systemd/system/nvidia-persistenced.service.d/citadel.conf.j2")
    unit = tmp_path / "nvidia-persistenced.service"
    # As Ubuntu's package has it.
    unit.write_text(
        "[Unit]\nStopWhenUnneeded=true\n[Service]\nType=forking\n"
        "ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose\n"
    )
    settings = text.replace("/usr/bin/nvidia-persistenced", "/usr/bin/true")
    (tmp_path / "nvidia-persistenced.service.d").mkdir()
    (tmp_path / "nvidia-persistenced.service.d/citadel.conf").write_text(settings)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    said = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60
    )
    # Without its first, empty ExecStart it would have two, which this type may not.
    assert "citadel.conf" not in said.stderr, said.stderr
    assert "ExecStart" not in said.stderr, said.stderr
    assert "--persistence-mode" in text


def test_it_does_nothing_unless_asked():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert defaults["nvidia_driver_state"] == "unmanaged"
    assert defaults["nvidia_driver_reboot_allowed"] is False
    for file in ("main", "preflight"):
        for task in yaml.safe_load((ROLE / f"tasks/{file}.yml").read_text()):
            conditions = task["when"] if isinstance(task["when"], list) else [task["when"]]
            assert "nvidia_driver_state == 'present'" in conditions, task["name"]


def test_the_branch_is_enough_for_the_locked_engine():
    check = load("library/citadel_gpu_check.py")
    lock = (ROLES.parent / "requirements/engine-cuda.txt").read_text()
    cuda = load("roles/nvidia_driver/filter_plugins/citadel_cuda.py").cuda_of_lock(lock)
    branch = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["nvidia_driver_branch"]
    (finding,) = check.check_driver({}, {"version": str(branch), "open": True}, cuda)
    assert finding.met, finding.remedy
