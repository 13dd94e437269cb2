"""The page of the arithmetic shows what the arithmetic gives."""

import compare_estimates


def test_the_tables_are_those_of_the_script() -> None:
    page = compare_estimates.PAGE.read_text(encoding="utf-8")
    tables = {"formulas": compare_estimates.formulas(), "measured": compare_estimates.measured()}
    assert compare_estimates.with_tables(page, tables) == page, "run scripts/compare_estimates.py --write"
    assert all(table in page for table in tables.values())
