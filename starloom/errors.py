"""The one exception root of the project: every error says what it is, whether a retry helps, and what to do.

The shape follows LSST's middleware (``daf_butler`` and ``prompt_processing``), whose errors carry a stable
machine-readable code and say whether trying again can help.
"""

from __future__ import annotations


class StarloomError(Exception):
    """Root of all errors raised on purpose.

    Parameters
    ----------
    message
        What happened, naming the file or object concerned.
    code
        Stable kebab-case identifier; goes into the archive, receipts and ``--json`` output. Defaults to the
        class's own ``code``.
    hint
        What the reader can do about it, one sentence.
    retryable
        Whether the same call may succeed later without anybody changing anything.
    """

    code: str = "starloom-error"
    hint: str = ""
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint
        if retryable is not None:
            self.retryable = retryable

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process boundaries (workers, Dask); the default would drop code and hint.
        return (_rebuild, (type(self), self.message, self.code, self.hint, self.retryable))

    def as_dict(self) -> dict[str, object]:
        """Return ``{code, message, hint, retryable}`` for receipts and ``--json`` output."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
        }


def _rebuild(cls: type[StarloomError], message: str, code: str, hint: str, retryable: bool) -> StarloomError:
    error = cls.__new__(cls)
    StarloomError.__init__(error, message, code=code, hint=hint, retryable=retryable)
    return error


class BadInput(StarloomError):
    """A file, name or parameter from outside that cannot be used; no retry will help."""

    code = "bad-input"


class Unavailable(StarloomError):
    """A service (lake, archive, Prefect) did not answer; trying again later may help."""

    code = "unavailable"
    hint = "Check that the service is running (`starloom status`), then try again."
    retryable = True


class Conflict(StarloomError):
    """Somebody else got there first; the caller's view of the state is out of date."""

    code = "conflict"
