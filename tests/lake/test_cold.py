"""Raw frames that move to a cheaper storage class: asked for by a rule, where the store knows such a thing."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from minio.xml import marshal

from starloom.errors import StarloomError
from starloom.lake import buckets, connect
from starloom.lake.answers import explain
from starloom.settings import Settings


def rules(kind: str, cold: buckets.Cold | None) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(marshal(buckets._lifecycle(kind, cold)))
    name = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    return {str(rule.findtext(f"{name}ID")): rule for rule in root.iter(f"{name}Rule")}


def test_only_raw_frames_move_and_only_when_asked() -> None:
    cold = buckets.Cold(90, "GLACIER_IR")
    rule = rules("raw", cold)["cold"]
    text = "".join(rule.itertext())
    assert "90" in text
    assert "GLACIER_IR" in text
    assert "raw/" in text, "what is in quarantine stays"
    assert "cold" not in rules("raw", None)
    assert "cold" not in rules("products", cold)
    assert "unfinished-uploads" in rules("raw", cold)


def test_a_store_without_storage_classes_says_so(seaweed_settings: Settings) -> None:
    """SeaweedFS 4.48 answers NotImplemented, which is honest; the rules of before stay."""
    lake = connect(seaweed_settings.model_copy(update={"lake_cold_after_days": 90}))
    with pytest.raises(StarloomError) as error:
        lake.prepare()
    assert error.value.code == "lake-no-classes"
    assert "STARLOOM_LAKE_COLD_AFTER_DAYS=0" in error.value.hint
    lake.close()


def test_a_frozen_object_is_named() -> None:
    error = explain("InvalidObjectState", "", "raw/T1/x")
    assert (error.code, error.retryable) == ("object-frozen", False)
