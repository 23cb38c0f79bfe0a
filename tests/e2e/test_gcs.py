"""Google Cloud Storage: commands over a bucket end as they do over local files, whatever happens on the way."""

import pathlib

import pytest

from core.storage import location
from tests.e2e import driving, stored

pytestmark = pytest.mark.e2e


def test_a_pipeline_over_gcs_is_killed_resumed_and_has_the_bytes_of_a_local_one(
    drive: driving.Drive, corpus: pathlib.Path, tmp_path: pathlib.Path, gs_root: location.Location
) -> None:
    stored.check_pipeline(drive, corpus, tmp_path, gs_root)


@pytest.mark.ray
def test_two_ray_workers_do_over_gcs_what_is_done_without_ray(
    drive: driving.Drive, corpus: pathlib.Path, tmp_path: pathlib.Path, gs_root: location.Location
) -> None:
    stored.check_with_ray(drive, corpus, tmp_path, gs_root, "{min: 1, max: 2}")
