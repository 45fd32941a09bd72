"""``starloom doctor``: one look at everything a hub rests on; what was found, why it matters, what to do."""

from starloom.doctor.examining import GROUPS, examine
from starloom.doctor.finding import Finding

__all__ = ["GROUPS", "Finding", "examine"]
