"""The root error keeps its code, hint and verdict wherever it travels."""

from __future__ import annotations

import copy

from starloom.errors import BadInput, StarloomError, Unavailable


def test_class_defaults_and_overrides() -> None:
    plain = Unavailable("lake at 127.0.0.1:1 does not answer")
    assert plain.retryable
    assert plain.code == "unavailable"
    special = BadInput("x.fits is empty", code="empty-file", hint="Send it again.")
    assert special.as_dict() == {
        "code": "empty-file",
        "message": "x.fits is empty",
        "hint": "Send it again.",
        "retryable": False,
    }


def test_an_error_that_crosses_a_process_keeps_everything() -> None:
    error = BadInput("gone", code="no-such-thing", hint="Look elsewhere.", retryable=True)
    twin = copy.copy(error)  # copies through __reduce__, as pickling between processes does
    assert type(twin) is BadInput
    assert twin.as_dict() == error.as_dict()
    assert isinstance(twin, StarloomError)
