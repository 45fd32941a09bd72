"""What the hub is made of: licences that go with BSD, versions that are pinned, no secret in the source."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: Copyleft that would bind whoever passes the hub on; LGPL does not.
COPYLEFT = re.compile(r"(?<!L)(?<!Lesser )\bA?GPL|(?<!Lesser )General Public License", re.IGNORECASE)
#: Extras that nobody gets unasked: a GPL engine that runs as a program of its own, and torch.
UNASKED = {"blind-gpl", "gpu"}
#: Under two licences, of which we take the other.
EITHER = {"text-unidecode": "Artistic License"}
BINARY = {".fz", ".png", ".parquet", ".gz"}
SECRETS = {
    "an AWS key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "a token of Slack": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "a token of Prefect": r"\bpn[ub]_[A-Za-z0-9]{36}\b",
    "a JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "a key of ours": r"\bSL[0-9A-F]{18}\b",
    "a password in an address": r"\b[a-z+]{3,}://[^\s/:@{}$<>\"']+:(?!password\b|secret\b|ChangeMe\b|hush\b|kD83hs\b)[^\s/:@{}$<>\"']{6,}@(?!127\.|localhost)",
}


def licence_of(found: Distribution) -> str:
    meta = found.metadata
    classifiers = [line for line in meta.get_all("Classifier") or [] if line.startswith("License ::")]
    said = meta.get("License-Expression") or " / ".join(classifiers)
    return said or (meta.get("License") or "").strip().split("\n")[0]


def closure() -> dict[str, Distribution]:
    """Return every distribution that some extra of ours installs, by canonical name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        wanted += [] if extra in UNASKED else requirements
    found: dict[str, Distribution] = {}
    queue = [Requirement(text) for text in wanted]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        try:
            here = distribution(requirement.name)
        except PackageNotFoundError:
            continue  # for another system or version of Python
        news = name not in found
        found[name] = here
        extras = requirement.extras or {""}
        if news or requirement.extras:
            for text in here.requires or []:
                needed = Requirement(text)
                asked = needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in extras)
                if asked and canonicalize_name(needed.name) not in found:
                    queue.append(needed)
    return found


@pytest.fixture(scope="module")
def installed() -> dict[str, Distribution]:
    return closure()


def test_no_requirement_is_copyleft(installed: dict[str, Distribution]) -> None:
    assert len(installed) > 80
    licences = {name: licence_of(found) for name, found in installed.items()}
    copyleft = {name: said for name, said in licences.items() if COPYLEFT.search(said)}
    assert {name: said for name, said in copyleft.items() if EITHER.get(name, "none") not in said} == {}


def test_every_requirement_is_pinned_as_installed(installed: dict[str, Distribution]) -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, sign, version = line.partition("#")[0].strip().partition("==")
        if sign:
            pinned[canonicalize_name(name)] = version.split(";")[0].strip()
    ours = {name: found for name, found in installed.items() if name != "starloom"}
    loose = {name: found.version for name, found in ours.items() if pinned.get(name) != found.version}
    assert loose == {}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():  # an archive of the source: everything in it, but for what was made since
        made = {".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
        return [path for path in ROOT.rglob("*") if not made & set(path.parts)]
    said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in said.split(b"\0") if name]


def test_no_secret_is_in_the_source() -> None:
    patterns = {
        what: re.compile(pattern, re.IGNORECASE if "://" in pattern else 0) for what, pattern in SECRETS.items()
    }
    texts = [path for path in tracked() if path.is_file() and path.suffix not in BINARY and path != Path(__file__)]
    assert len(texts) > 400
    hits = []
    for path in texts:
        text = path.read_text(encoding="utf-8", errors="replace")
        for what, pattern in patterns.items():
            hits += [f"{path.relative_to(ROOT)}: {what}: {found[0][:60]}" for found in pattern.finditer(text)]
    assert hits == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("an AWS key", "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE"),
        ("a private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("a key of ours", "STARLOOM_LAKE_ACCESS_KEY=SL" + "8CC8D54B02AF4DC281"),
        ("a password in an address", "postgresql://starloom:" + "hunter2!@db.example/starloom"),
    ],
)
def test_a_secret_would_be_found(what: str, line: str) -> None:
    assert re.search(SECRETS[what], line)
