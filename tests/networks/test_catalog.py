"""Names and folders of bundles, and which of them has a class."""

import pytest

from gradgen.errors import UsageError
from gradgen.labels import imagenet_labels
from gradgen.networks.catalog import bundles, find_bundle, find_class


def test_every_bundle_is_found_by_its_name_without_its_networks():
    found = {entry.name: entry for entry in bundles()}
    assert {"tiny64", "caffenet", "alexnet", "googlenet", "places205"} <= set(found)
    assert len(found["tiny64"].labels) == 200 and len(found["places205"].labels) == 205
    assert found["places205"].folder is None
    assert found["tiny64"].folder == find_bundle(found["tiny64"].folder).folder


def test_a_class_of_another_bundle_is_told_with_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADGEN_HOME", str(tmp_path))
    monkeypatch.delenv("GRADGEN_REGISTRY", raising=False)
    lists = (find_bundle("tiny64").labels, imagenet_labels())
    with pytest.raises(UsageError) as raised:
        find_class("alley", lists)
    said = str(raised.value)
    assert "did you mean valley" in said
    assert "The bundle places205 has alley: fetch it by 'gradgen weights fetch places205'" in said
    assert "`bundle=places205`" in said and "\n" not in said
    monkeypatch.setenv("GRADGEN_REGISTRY", str(tmp_path / "nonesuch.toml"))
    with pytest.raises(UsageError, match="places205 has alley"):
        find_class("alley", lists)


def test_a_class_that_no_bundle_has_is_only_proposed_names():
    with pytest.raises(UsageError, match=r"did you mean lipstick, slipstick\?$"):
        find_class("lipstik", (find_bundle("tiny64").labels, imagenet_labels()))
