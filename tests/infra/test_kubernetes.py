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
    for path in sorted([*FOLDER.glob("*.yaml"), FOLDER / "dask" / "dask.yaml"])
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
        for source in container.get("envFrom", []):
            assert next(iter(source.values()))["name"] in names
    for volume in spec.get("volumes", []):
        assert volume.get("secret", {}).get("secretName", "hub-secrets") in names


def test_dask_shares_the_folder_of_stacks_with_the_runs_and_is_told_to_them() -> None:
    said = yaml.safe_load((FOLDER / "dask" / "kustomization.yaml").read_text())
    patch = yaml.safe_load((FOLDER / "dask" / "worker.yaml").read_text())
    there = {(p.values[0]["kind"], p.values[0]["metadata"]["name"]): p.values[0] for p in DOCUMENTS}
    worker, tiles = pod(there["Deployment", "worker"]), pod(there["Deployment", "dask-worker"])
    assert (said["resources"], said["patches"]) == (["dask.yaml"], [{"path": "worker.yaml"}])
    assert said["configMapGenerator"][0]["name"] == "hub-settings"
    (literal,) = said["configMapGenerator"][0]["literals"]
    address = literal.removeprefix("STARLOOM_DASK_SCHEDULER=")
    assert address in tiles["containers"][0]["command"]
    assert ("Service", address.removeprefix("tcp://").removesuffix(":8786")) in there
    # The patch is for a pod that there is, and one folder has one name in both.
    assert (patch["kind"], patch["metadata"]["name"]) in there
    assert pod(patch)["containers"][0]["name"] == worker["containers"][0]["name"]
    assert pod(patch)["containers"][0]["volumeMounts"] == tiles["containers"][0]["volumeMounts"]
    assert pod(patch)["volumes"] == tiles["volumes"]
    assert ("PersistentVolumeClaim", tiles["volumes"][0]["persistentVolumeClaim"]["claimName"]) in there


def test_the_settings_exist() -> None:
    known = {f"STARLOOM_{name.upper()}" for name in Settings.model_fields} | {"STARLOOM_SECRETS_DIR"}
    said = re.findall(r"^(STARLOOM_\w+)=", (FOLDER / "hub-settings.env").read_text(), re.MULTILINE)
    assert len(said) > 5
    assert set(said) <= known
