"""Dashboard, alert rules and documentation speak of metrics that there are, and of all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from starloom.settings import Settings
from starloom.telemetry import logs
from starloom.telemetry.context import ORIGIN, SUBJECT
from starloom.telemetry.families import FAMILIES

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "infra" / "grafana" / "dashboard.json"
RULES = ROOT / "infra" / "prometheus" / "starloom.rules.yml"
DOCS = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
#: Names that Prometheus derives from one family.
SERIES = {
    "gauge": [""],
    "counter": [""],
    "histogram": ["_bucket", "_count", "_sum"],
    "gaugehistogram": ["_bucket", "_gcount", "_gsum"],
}
EXPORTED = {name + end: family for name, family in FAMILIES.items() for end in SERIES[family.kind]}


def promtool(*words: str | Path, said: str = "") -> str:
    """Run Prometheus's own checker (Debian's package `prometheus`)."""
    found = shutil.which("promtool")
    assert found, "promtool not found: install Debian's `prometheus`"
    done = subprocess.run([found, *words], input=said, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions() -> dict[str, str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    found = {f"{p['title']} {t['refId']}": t["expr"] for p in panels for t in p.get("targets", [])}
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"]
    return found | {rule["alert"]: rule["expr"] for rule in rules}


@pytest.mark.parametrize("where", expressions())
def test_an_expression_asks_for_what_is_exported(where: str) -> None:
    asked = expressions()[where]
    names = set(re.findall(r"starloom_\w+", asked))
    assert names or "up{" in asked
    assert names <= EXPORTED.keys()
    # A label that a metric has not would silently match nothing.
    labels = {label for name in names for label in EXPORTED[name].labels} | {"job", "le"}
    used = set(re.findall(r"(\w+)\s*[!=]~?\"", asked))
    for group in re.findall(r"(?:by|on|without)\s*\(([^)]*)\)", asked):
        used |= {label.strip() for label in group.split(",")}
    assert used <= labels


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"starloom_\w+", DASHBOARD.read_text(encoding="utf-8")))
    families = {name for name, family in FAMILIES.items() if {name + end for end in SERIES[family.kind]} & shown}
    assert families == FAMILIES.keys()


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_prometheus_takes_configuration_and_rules() -> None:
    said = promtool("check", "config", ROOT / "infra" / "prometheus" / "prometheus.yml")
    assert "SUCCESS" in said
    assert f"{sum('alert:' in line for line in RULES.read_text().splitlines())} rules found" in said


def test_the_rules_fire_when_they_should(tmp_path: Path) -> None:
    """Prometheus itself evaluates the rules over series that say what is wrong."""
    shutil.copy(RULES, tmp_path)
    wrong = {
        'starloom_archive_up{job="starloom"}': "0x20",
        'starloom_prefect_up{job="starloom"}': "1x20",
        'starloom_queue_lag_seconds{job="starloom"}': "1000x20",
        'starloom_frames_solved_ratio{job="starloom", node="T1"}': "0.2x60",
        'starloom_frames_solved_ratio{job="starloom", node="T2"}': "0.2x60",
        'starloom_frames{job="starloom", node="T1", state="solve-failed"}': "8x60",
        'starloom_frames{job="starloom", node="T1", state="ready"}': "2x60",
        'starloom_frames{job="starloom", node="T2", state="solve-failed"}': "3x60",
    }
    minutes = dict.fromkeys(("StarloomArchiveGone", "StarloomPrefectGone", "StarloomRunsLate"), 15)
    minutes["StarloomNodeUnsolved"] = 45
    fires: dict[str, dict[str, str]] = {
        "StarloomArchiveGone": {},
        "StarloomRunsLate": {},
        "StarloomNodeUnsolved": {"node": "T1"},  # of T2 too few have come to judge
    }
    rules = {r["alert"]: r for r in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    tests = []
    for name, minute in minutes.items():
        expected = []
        if (labels := fires.get(name)) is not None:
            fixed = {"job": "starloom", "severity": rules[name]["labels"]["severity"], **labels}
            notes = {key: _filled(said, labels) for key, said in rules[name]["annotations"].items()}
            expected = [{"exp_labels": fixed, "exp_annotations": notes}]
        tests.append({"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected})
    body = {
        "rule_files": [RULES.name],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": s, "values": v} for s, v in wrong.items()],
                "alert_rule_test": tests,
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(body))
    promtool("test", "rules", tmp_path / "tests.yml")


def _filled(text: str, labels: dict[str, str]) -> str:
    filled = text.replace("{{ $value | humanizeDuration }}", "16m 40s")
    return filled.replace("{{ $labels.node }}", labels.get("node", ""))


def test_the_documentation_has_every_metric_with_its_meaning_and_labels() -> None:
    rows = re.findall(r"^\| `(starloom_\w+)` \| (.*?) \| (.*?) \|$", DOCS, flags=re.M)
    told = {name: (meaning, tuple(re.findall(r"`(\w+)`", labels))) for name, meaning, labels in rows}
    assert told == {name: (family.meaning, family.labels) for name, family in FAMILIES.items()}


def test_the_documentation_has_every_field_of_a_line() -> None:
    chapter = DOCS.partition("## Log lines")[2].partition("\n## ")[0]
    fields = set(re.findall(r"^\| `(\w+)` \|", chapter, flags=re.M))
    assert fields == {"time", "level", "logger", "message", "exception", *SUBJECT, *ORIGIN}
    said = logs.prefect_environment(Settings(log_format="json"))
    assert all(name.startswith("PREFECT_LOGGING_") for name in said)
