"""Selectors of nodes by their labels."""

import pydantic
import pytest

from core.config import node_labels, schema

NODE = {"ray.io/accelerator-type": "A100", "market": "spot"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"market": "spot"}, True),
        ({"market": "on-demand"}, False),
        ({"market": "!on-demand"}, True),
        ({"market": "!spot"}, False),
        ({"zone": "a"}, False),
        ({"zone": "!a"}, True),
        ({"ray.io/accelerator-type": "in(A100, H100)"}, True),
        ({"ray.io/accelerator-type": "in(H100,L4)"}, False),
        ({"ray.io/accelerator-type": "!in(H100)"}, True),
        ({"ray.io/accelerator-type": "!in(A100)"}, False),
        ({"market": "spot", "ray.io/accelerator-type": "H100"}, False),
    ],
)
def test_a_node_matches_if_it_fulfils_all_conditions(selector: dict[str, str], expected: bool) -> None:
    assert schema.ClusterConfig(address="head:6379", label_selector=selector).label_selector == selector
    assert node_labels.matches(selector, NODE) is expected


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ({"-x": "a"}, "not the key of a label"),
        ({"a b": "a"}, "not the key of a label"),
        ({"x": ""}, "is not VALUE"),
        ({"x": "in()"}, "is not VALUE"),
        ({"x": "in(a,"}, "is not VALUE"),
        ({"x": "!!a"}, "is not VALUE"),
        ({"x": "a" * 64}, "is not VALUE"),
    ],
)
def test_other_syntax_is_refused(selector: dict[str, str], text: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=text):
        schema.ClusterConfig(address="head:6379", label_selector=selector)


@pytest.mark.parametrize("address", ["local", "none"])
def test_a_cluster_without_labels_has_no_selector(address: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="label_selector: has no effect with address"):
        schema.ClusterConfig(address=address, label_selector={"market": "spot"})


def test_labels_that_a_node_must_have_are_those_of_one_value() -> None:
    selector = {"market": "spot", "zone": "!a", "kind": "in(A, B)"}
    assert node_labels.required_values(selector) == {"market": "spot"}
