"""Automations as files: what a file of ``infra/automations`` may say, checked before the server hears of it.

Prefect ignores a key that it does not know, in a trigger or in an action: a misspelt ``match_related`` would make
an automation that answers to everything. So every key is checked here, against models as narrow as our needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from jinja2 import Environment, TemplateSyntaxError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from starloom.errors import BadInput

#: What the names of our automations begin with: the mark by which ours are told from everybody else's.
PREFIX = "starloom: "
TAGS = ("starloom",)
#: Stands in for the block in files that are read before there is one.
NO_BLOCK = "00000000-0000-0000-0000-000000000000"
_PARAMETER = re.compile(r"\$\{(\w+)\}")
_BLOCK = "notification_block"


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_specifications(value: Any) -> Any:
    """Prefect takes one specification or several, and gives an empty one where there is none."""
    return [item for item in ([value] if isinstance(value, dict) else value) if item]


def _sorted(value: list[str]) -> list[str]:
    return sorted(set(value))


def _as_template(value: str) -> str:
    """Refuse what Prefect would refuse, before anything else has been changed."""
    try:
        Environment(autoescape=True).parse(value)
    except TemplateSyntaxError as error:
        raise ValueError(f"not a valid template: {error.message}") from error
    return value


Template = Annotated[str, Field(min_length=1), AfterValidator(_as_template)]
Words = Annotated[list[str], BeforeValidator(_as_list)]
Labels = dict[str, Words]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EventTrigger(_Strict):
    """What an automation waits for: the presence (Reactive) or absence (Proactive) of events.

    ``within`` is in seconds. Words in ``match`` may hold ``*`` and ``[…]`` and be negated by a leading ``!``.
    """

    type: Literal["event"] = "event"
    posture: Literal["Reactive", "Proactive"]
    after: Words = []
    expect: Annotated[Words, Field(min_length=1)]
    match: Labels = {}
    match_related: Annotated[list[Labels], BeforeValidator(_as_specifications)] = []
    for_each: Words = []
    threshold: Annotated[int, Field(ge=1)] = 1
    within: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _check(self) -> EventTrigger:
        if self.posture == "Proactive" and self.within < 10:
            raise ValueError("a Proactive trigger needs `within` of at least 10 seconds")
        if self.posture == "Reactive" and self.within == 0 and self.threshold > 1:
            raise ValueError("a threshold above 1 needs `within`: the time in which the events come")
        if self.posture == "Reactive" and self.after:
            raise ValueError("`after` belongs to a Proactive trigger")
        return self


class ChangeState(_Strict):
    """Change the state of the run that the event speaks of."""

    type: Literal["change-flow-run-state"]
    state: Literal["SCHEDULED", "CRASHED", "FAILED", "CANCELLED"]
    name: str | None = None
    message: Annotated[str, Field(min_length=1)]
    force: bool = False


class CancelRun(_Strict):
    """Cancel the run that the event speaks of."""

    type: Literal["cancel-flow-run"]


class Notify(_Strict):
    """Send a text through a notification block; subject and body are Prefect's templates (``{{ event… }}``)."""

    type: Literal["send-notification"]
    block_document_id: str
    subject: Template
    body: Template


Action = Annotated[ChangeState | CancelRun | Notify, Field(discriminator="type")]


class AutomationBody(_Strict):
    """One automation as its file says it."""

    name: str
    description: Annotated[str, Field(min_length=1)]
    enabled: bool | None = None
    """None: the server's word counts, so that what an operator has switched off stays off."""
    trigger: EventTrigger
    actions: Annotated[list[Action], Field(min_length=1)]

    @model_validator(mode="after")
    def _named(self) -> AutomationBody:
        if not self.name.startswith(PREFIX) or self.name == PREFIX:
            raise ValueError(f"the name must begin with {PREFIX!r}, by which ours are known")
        return self

    def canonical(self) -> dict[str, Any]:
        """Return what must be equal on the server; the order of words means nothing to Prefect."""
        said = self.model_dump(exclude={"name", "enabled"})
        trigger = said["trigger"]
        for key in ("after", "expect", "for_each"):
            trigger[key] = _sorted(trigger[key])
        trigger["match"] = _sorted_labels(trigger["match"])
        trigger["match_related"] = [_sorted_labels(labels) for labels in trigger["match_related"]]
        said["tags"] = list(TAGS)
        return said


def _sorted_labels(labels: Mapping[str, list[str]]) -> dict[str, list[str]]:
    return {label: _sorted(words) for label, words in sorted(labels.items())}


@dataclass(frozen=True)
class AutomationFile:
    """A file that was read and found good.

    Parameters
    ----------
    path
        Where it lies.
    body
        What it says, parameters put in.
    notifies
        Whether it speaks of the notification block.
    """

    path: Path
    body: AutomationBody
    notifies: bool


def read_folder(folder: Path, parameters: Mapping[str, Any]) -> list[AutomationFile]:
    """Read every ``*.yaml`` of a folder.

    Parameters
    ----------
    folder
        Where to look; not below it.
    parameters
        What ``${name}`` stands for; a value that is such a word alone takes the parameter's type.

    Raises
    ------
    BadInput
        ``no-automations``, ``bad-automation`` (naming file and key), or ``duplicate-automation``: two files of one
        name.
    """
    paths = sorted(folder.glob("*.yaml")) if folder.is_dir() else []
    if not paths:
        raise BadInput(
            f"there is no *.yaml in {folder}",
            code="no-automations",
            hint="`--folder` names a folder of automations, infra/automations of the checkout by default.",
        )
    files = [read_file(path, parameters) for path in paths]
    seen: dict[str, Path] = {}
    for file in files:
        if (other := seen.setdefault(file.body.name, file.path)) != file.path:
            raise BadInput(
                f"{other.name} and {file.path.name} have the same name {file.body.name!r}",
                code="duplicate-automation",
                hint="Automations are known by their names: give each its own.",
            )
    return files


def read_file(path: Path, parameters: Mapping[str, Any]) -> AutomationFile:
    """Read one file; see `read_folder`."""
    try:
        text = path.read_text(encoding="utf-8")
        said = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _bad(path, f"not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(said, dict):
        raise _bad(path, "not a mapping of keys")
    used: set[str] = set()
    filled = _fill(said, parameters, used, path, "")
    try:
        body = AutomationBody.model_validate(filled)
    except ValidationError as error:
        raise _bad(path, "; ".join(_in_words(error))) from None
    return AutomationFile(path, body, _BLOCK in used)


def _fill(value: Any, parameters: Mapping[str, Any], used: set[str], path: Path, key: str) -> Any:
    """Put parameters in, wherever they stand."""
    if isinstance(value, dict):
        return {k: _fill(v, parameters, used, path, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(item, parameters, used, path, f"{key}.{i}") for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    names = _PARAMETER.findall(value)
    for name in names:
        if name not in parameters:
            raise _bad(
                path, f"{key}: there is no parameter ${{{name}}}; there are {', '.join(sorted(parameters))}"
            )
    used.update(names)
    if names and value == f"${{{names[0]}}}":
        return parameters[names[0]]
    return _PARAMETER.sub(lambda match: str(parameters[match[1]]), value)


def _in_words(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        # A discriminator adds the action's type to the path, which is no key of the file.
        key = ".".join(str(part) for part in item["loc"] if "-" not in str(part))
        yield f"{key}: {item['msg']}" if key else item["msg"].removeprefix("Value error, ")


def _bad(path: Path, why: str) -> BadInput:
    return BadInput(f"{path.name}: {why}", code="bad-automation", hint="docs/alerts.md says what a file may hold.")
