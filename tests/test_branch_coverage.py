"""The table of branch coverage by package."""

from tests import branch_coverage


def test_every_source_file_belongs_to_a_package_and_every_package_has_files() -> None:
    owners = [branch_coverage.owner_of(path) for path in branch_coverage.sources()]
    assert set(owners) == set(branch_coverage.PACKAGES)


def test_a_package_below_its_bound_is_named_and_fails() -> None:
    storage, jobs = branch_coverage.PACKAGES[0], branch_coverage.PACKAGES[-1]
    lines, are_kept = branch_coverage.rows([(storage, 98.0), (jobs, 90.5)])
    assert are_kept
    assert lines[2:] == ["| storage | 98 % | 98.0 % |", "| jobs | 90 % | 90.5 % |"]
    lines, are_kept = branch_coverage.rows([(storage, 97.9), (jobs, 90.5)])
    assert not are_kept
    assert lines[2] == "| storage | 98 % | 97.9 % (below the bound) |"
