"""How work with an API ends before its end."""

from __future__ import annotations

from warmeng.common.errors import InputError, Stopped


class BudgetReached(Stopped):
    """One more request could pass a limit of the budget."""


class Unavailable(Stopped):
    """The server did not answer in as many attempts as are allowed, or asks to wait too long."""


class OtherModel(InputError):
    """Another model answers than the one that the run was begun with."""
