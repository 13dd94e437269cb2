"""Root file systems: one a suite, built once with mmdebstrap, and copied for each host."""

import hashlib
import json
from pathlib import Path

from .definition import Lab
from .system import remove_tree, run

ACCOUNT = "lab"

# What every host shares and a copy may keep. The rest is made for each host, in machine.py.
_HOOKS = (
    f'chroot "$1" useradd --create-home --shell /bin/bash {ACCOUNT}',
    f'chroot "$1" install -d -m 0700 -o {ACCOUNT} -g {ACCOUNT} /home/{ACCOUNT}/.ssh',
    'chroot "$1" systemctl --quiet enable systemd-networkd.service',
    'rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub',
)

# The package lists stay: an empty folder as young as the host would pass for fresh ones.
_OPTIONS = ("--mode=root", "--variant=apt", "--skip=cleanup/apt/lists")


def folder_of(lab: Lab) -> Path:
    """Holds the root file systems; only root may enter, as with the hosts themselves."""
    return lab.cache_dir / "rootfs"


def path_of(lab: Lab) -> Path:
    """Where the root file system stands: its name changes with everything that goes into it."""
    recipe = json.dumps([lab.suite, lab.mirror, sorted(lab.packages), _OPTIONS, _HOOKS])
    return folder_of(lab) / f"{lab.suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def build(lab: Lab) -> None:
    """Build the root file system beside its place and put it there when it is complete."""
    place = path_of(lab)
    draft = place.with_name(f"{place.name}.building")
    remove_tree(draft)  # of a run that was killed
    folder_of(lab).mkdir(parents=True, exist_ok=True)
    folder_of(lab).chmod(0o700)
    mirror = [lab.mirror] if lab.mirror else []
    run(
        "mmdebstrap",
        *_OPTIONS,
        f"--include={','.join(lab.packages)}",
        *(f"--customize-hook={hook}" for hook in _HOOKS),
        lab.suite,
        draft,
        *mirror,
        timeout=900,
    )
    draft.rename(place)


def copy_to(lab: Lab, root: Path) -> None:
    """Give a host its own copy."""
    root.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "--archive", "--reflink=auto", path_of(lab), root)
