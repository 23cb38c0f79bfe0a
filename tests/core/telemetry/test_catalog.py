"""Laws of the catalogue of metrics."""

from core.telemetry import catalog

UNITS = ("seconds", "nats", "points", "total")
# Counts of things and numbers without a unit; the words `ratio` and `info` would promise what they are not.
WITHOUT_UNIT = {
    catalog.TRAIN_GRADIENT_NORM,
    catalog.TRAIN_LEARNING_RATE,
    catalog.TRAIN_EPOCHS,
    catalog.TRAIN_COSINE,
    catalog.TRAIN_WORKERS,
    catalog.CHECKPOINT_STEP,
    catalog.FANOUT_PENDING,
}


def test_names_end_in_their_unit_and_counters_in_total() -> None:
    for metric in catalog.ALL:
        unit = metric.name.rpartition("_")[2]
        assert (unit in UNITS) != (metric in WITHOUT_UNIT), metric.name
        assert (unit == "total") == (metric.kind == "counter"), metric.name


def test_labels_are_a_closed_set() -> None:
    assert {label for metric in catalog.ALL for label in metric.labels} <= {"rank", "stage", "outcome", "corpus"}


def test_a_renamed_metric_keeps_its_old_name_and_labels_as_deprecated() -> None:
    old = catalog.TRAIN_CORPUS_LOSS.deprecated
    assert old is not None
    assert (old.name, old.kind, old.labels) == ("raycurrent_train_task_loss_nats", "gauge", ("task",))
    assert old.help == "deprecated: use raycurrent_train_corpus_loss_nats"
    assert old.deprecated is None
    assert catalog.TRAIN_LOSS.deprecated is None


def test_all_names_are_unique_including_deprecated_ones() -> None:
    names = [metric.name for metric in catalog.ALL]
    names += [metric.deprecated.name for metric in catalog.ALL if metric.deprecated]
    assert len(set(names)) == len(names)
