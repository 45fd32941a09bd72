"""Header profiles: one YAML file per capture program, saying which keyword truly means what."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from starloom.frames.reading import HeaderView
from starloom.loading import shipped_yaml

Confidence = Literal["high", "medium", "low"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Match(_Strict):
    """A test on one card: its value matches, or is above a number. COMMENT searches all remarks."""

    keyword: str
    matches: str = ""
    above: float | None = None

    def holds(self, header: HeaderView) -> bool:
        """Whether the header passes."""
        if self.above is not None:
            number = header.number(self.keyword)
            return number is not None and number > self.above
        text = header.remarks if self.keyword == "COMMENT" else header.text(self.keyword)
        return bool(text) and re.search(self.matches, text, re.IGNORECASE) is not None


class Rule(_Strict):
    """One place where a quantity may stand.

    Attributes
    ----------
    keyword, partner
        The card, and the one that completes it (declination, latitude, time of day).
    parse
        How to read it where the quantity's own way does not do: ``mjd``, ``jd``, ``divide`` (by ``partner``).
    unit
        Unit of the number, where it is not the archive's; a unit in brackets in the comment overrules it.
    scale
        Multiplier, e.g. -1 for a longitude counted west.
    ref
        What a time refers to: the ``start``, ``mid`` or ``end`` of the exposure.
    binned
        Whether a pixel size already includes binning; None: ask the comment.
    when, unless
        Regular expressions that the card's comment must or must not match.
    only
        ``stack`` or ``single``: the kind of image this rule is for.
    """

    keyword: str
    partner: str = ""
    parse: Literal["", "mjd", "jd", "divide"] = ""
    unit: str = ""
    scale: float = 1.0
    ref: Literal["start", "mid", "end"] = "start"
    binned: bool | None = None
    when: str = ""
    unless: str = ""
    only: Literal["", "stack", "single"] = ""
    confidence: Confidence = "high"
    note: str = ""

    def applies(self, header: HeaderView, stacked: bool) -> bool:
        """Whether the card is there and its comment and the kind of image fit."""
        comment = header.comment(self.keyword)
        return (
            self.keyword in header
            and (not self.only or (self.only == "stack") == stacked)
            and (not self.when or re.search(self.when, comment, re.IGNORECASE) is not None)
            and not (self.unless and re.search(self.unless, comment, re.IGNORECASE))
        )


class Profile(_Strict):
    """What is known of one program's headers.

    Attributes
    ----------
    priority
        Lower is asked first: what processed a file last knows more of it than what captured it.
    detect
        Any one match selects the profile; each is a list of tests that must all hold.
    wcs
        ``mount``: CRVAL is where the mount believed to point, unless a solver's mark is there.
    quantities
        Ordered rules by quantity. A list here replaces the generic one; an empty list says "never".
    stack, frame_types
        Tests that tell a stack; regular expressions by frame type (generic profile).
    """

    profile: str
    version: int
    priority: int = 50
    about: str = ""
    detect: tuple[tuple[Match, ...], ...] = ()
    wcs: Literal["solution", "mount"] = "solution"
    quantities: dict[str, tuple[Rule, ...]] = Field(default_factory=dict)
    stack: tuple[Match, ...] = ()
    frame_types: dict[str, str] = Field(default_factory=dict)

    def found_in(self, header: HeaderView) -> bool:
        """Whether the header is this program's."""
        return any(all(test.holds(header) for test in tests) for tests in self.detect)


@cache
def profiles() -> tuple[Profile, ...]:
    """Return all profiles in the order they are asked; the generic one is last."""
    folder = files("starloom.frames") / "profiles"
    found = [
        Profile.model_validate(shipped_yaml("starloom.frames", "profiles", item.name))
        for item in folder.iterdir()
        if item.name.endswith(".yaml")
    ]
    return tuple(sorted(found, key=lambda profile: (profile.priority, profile.profile)))


def generic() -> Profile:
    """Return the profile that serves where no other has a rule."""
    return profiles()[-1]


def profile_of(header: HeaderView) -> Profile:
    """Return the profile of the program that wrote a header; the generic one where none is recognised."""
    return next((profile for profile in profiles() if profile.found_in(header)), generic())


def rules_for(profile: Profile, quantity: str) -> tuple[Rule, ...]:
    """Return the rules of a quantity, the profile's own before the generic ones."""
    own = profile.quantities.get(quantity)
    return own if own is not None else generic().quantities.get(quantity, ())
