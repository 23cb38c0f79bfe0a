"""Files of Ray Train: in a store they are written by our drivers, and none is left."""

import pickle

import pytest
from ray.train.v2._internal.execution import storage

from core.storage import location
from tests.e2e import stored
from workers.train import ray_train


@pytest.mark.parametrize("fixture", ["s3_root", "gs_root", "abfs_root"])
def test_files_of_ray_train_are_in_the_store_of_the_run_until_its_end(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    root: location.Location = request.getfixturevalue(fixture)
    with ray_train.scratch(root) as (path, filesystem):
        # As its controller makes it; workers get it by pickle.
        context = storage.StorageContext(path, "group-1", filesystem)
        assert [name for name in stored.stored(root) if name.startswith(".ray/group-1/")]
        read = pickle.loads(pickle.dumps(context))
        read._check_validation_file()
        # Made as all drivers are, which is decided before its module is imported: else gcsfs asks by gRPC for a minute.
        assert read.storage_filesystem.handler.fs is filesystem.handler.fs
    assert stored.stored(root) == {}
