"""The manifests of infra/kubernetes, against Kubernetes' own schemas and against what they speak of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from starloom.settings import Settings

FOLDER = Path(__file__).parents[2] / "infra" / "kubernetes"
OLDEST, NEWEST = "1.29", "1.37"
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
PODS = [param for param in DOCUMENTS if param.values[0]["kind"] in ("Deployment", "Job")]


def pod(document: Any) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_manifest_is_what_its_schema_asks_for(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_key_would_be_seen() -> None:
    document = yaml.safe_load((FOLDER / "namespace.yaml").read_text()) | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, NEWEST, strict=True)


def test_the_kustomization_names_every_manifest_and_the_image_they_use() -> None:
    said = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(said["resources"]) == {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    images = {container["image"] for param in PODS for container in pod(param.values[0])["containers"]}
    assert images == {image["name"] for image in said["images"]}


@pytest.mark.parametrize("document", PODS)
def test_a_pod_has_no_rights_and_bounded_memory_and_knows_its_settings(document: dict[str, Any]) -> None:
    spec = pod(document)
    generated = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    names = {entry["name"] for kind in ("configMapGenerator", "secretGenerator") for entry in generated[kind]}
    assert (spec["securityContext"]["runAsNonRoot"], spec["automountServiceAccountToken"]) == (True, False)
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        for source in container["envFrom"]:
            assert next(iter(source.values()))["name"] in names
    for volume in spec.get("volumes", []):
        assert volume.get("secret", {}).get("secretName", "hub-secrets") in names


def test_the_settings_exist() -> None:
    known = {f"STARLOOM_{name.upper()}" for name in Settings.model_fields} | {"STARLOOM_SECRETS_DIR"}
    said = re.findall(r"^(STARLOOM_\w+)=", (FOLDER / "hub-settings.env").read_text(), re.MULTILINE)
    assert len(said) > 5
    assert set(said) <= known
