"""The pages hang together: links lead somewhere, and each task of the plan has its page."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("roles/*/README.md")],
    key=str,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
TASK_ROLES = {
    "001": "hardware",
    "002": "citadel_user",
    "003": "python_env",
    "004": "directories",
    "005": "config",
    "006": "services",
    "007": "gateway",
    "008": "systemd_units",
    "009": "monitoring",
    "010": "operations",
    "011": "validation",
}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    titles = HEADING.findall(page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@pytest.mark.parametrize(("task", "role"), TASK_ROLES.items())
def test_each_task_has_its_page_and_the_page_names_its_role(task: str, role: str) -> None:
    [page] = (PROJECT / "docs" / "tasks").glob(f"{task}-*.md")
    assert f"roles/{role}" in page.read_text()
