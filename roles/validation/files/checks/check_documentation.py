"""Of every task: its page of the documentation, on the host where the operator looks for it."""

import pytest
from testinfra.host import Host

from checks.probe import said
from checks.recorder import Evidence
from checks.site import Site

# The items that a task's page answers.
PAGES = [
    ("001", ["Hardware validation documented"]),
    ("002", ["Environment setup documented"]),
    ("003", ["Python setup documented"]),
    ("004", ["Directory structure documented", "Any structural changes recorded"]),
    ("005", ["Configuration documentation created", "Configuration management documented"]),
    ("006", ["Service framework documented"]),
    ("007", ["API gateway documented"]),
    ("008", ["Systemd integration documented"]),
    ("009", ["Monitoring and logging documented"]),
    ("010", ["Operational scripts documented"]),
    ("011", ["Final validation documented"]),
]

# Less than this is no page.
LEAST_BYTES = 500


@pytest.mark.parametrize(
    "task",
    [pytest.param(task, marks=[pytest.mark.item(task, item) for item in items]) for task, items in PAGES],
)
def check_page(host: Host, site: Site, task: str, evidence: Evidence) -> None:
    folder = f"{site.root}/documentation/tasks"
    found = said(host, f"find {folder} -name '{task}-*.md' -size +{LEAST_BYTES}c")
    assert found, f"there is no page {folder}/{task}-*.md"
    evidence(found)


@pytest.mark.item("011", "Comprehensive documentation created")
def check_pages(host: Host, site: Site, evidence: Evidence) -> None:
    pages = said(host, f"find {site.root}/documentation -name '*.md' -size +{LEAST_BYTES}c").splitlines()
    tasks = {page.rsplit("/", 1)[1][:3] for page in pages if "/tasks/" in page}
    missing = [task for task, _ in PAGES if task not in tasks]
    assert not missing, f"no page for the tasks {', '.join(missing)}"
    evidence(f"{len(pages)} pages in {site.root}/documentation")


@pytest.mark.item("011", "Deployment guide created")
def check_guide(host: Host, site: Site, evidence: Evidence) -> None:
    guide = host.file(f"{site.root}/documentation/deploy.md")
    assert guide.exists, f"{guide.path} is not there"
    assert guide.size > LEAST_BYTES
    evidence(guide.path)
