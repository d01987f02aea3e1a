"""Every error edgeprune raises on purpose, and the exit code each one ends with.

    EdgePruneError            1  something failed
    ├── UsageError            2  the command's own words are wrong
    │   ├── BudgetError          a token budget that is malformed or out of a method's reach
    │   └── QuestionError        a question that is empty, too long, or holds special tokens
    ├── CheckpointError       1  a model that cannot be read
    │   └── UnsupportedModel     a model that can be read but not exported
    ├── RecipeError           1  a recipe or target file that says something unknown
    ├── BundleError           1  a bundle that must not be opened
    ├── ImageError            1  a picture that cannot be used
    ├── OutputError           1  a place that cannot be written
    ├── MissingExtra          1  a package that an optional extra installs
    ├── BackendError          1  a backend or provider that cannot do what was asked
    └── CheckFailed           3  verify or doctor found a difference

A message names the thing, its value, what was expected and, where there is one, the next command. It is one
line: the command line prints it as it stands, without a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class EdgePruneError(Exception):
    """Root of the tree above.

    Attributes:
        exit_code: what the command line exits with.
    """

    exit_code: ClassVar[int] = 1


class UsageError(EdgePruneError):
    """The words of a command or call are wrong; nothing was started."""

    exit_code: ClassVar[int] = 2


class BudgetError(UsageError):
    """A token budget is malformed or out of the method's reach."""


class QuestionError(UsageError):
    """A question is empty, longer than the context, or holds special tokens."""


class CheckpointError(EdgePruneError):
    """A checkpoint is missing, damaged, or stored in a form that is not read (pickle)."""


class UnsupportedModel(CheckpointError):
    """The checkpoint is readable, but its architecture cannot be exported."""


class RecipeError(EdgePruneError):
    """A recipe file holds an unknown key or a value out of range."""


class BundleError(EdgePruneError):
    """A bundle breaks a MUST of ``edgeprune/bundle/README.md``."""


class ImageError(EdgePruneError):
    """A file is no picture, is damaged, or has a size that cannot be used."""


class OutputError(EdgePruneError):
    """A destination exists, is read-only, or ran out of space."""


class MissingExtra(EdgePruneError):
    """A package of an optional extra is not installed.

    Args:
        package: the import that failed, as users know it.
        extra: the extra of edgeprune that installs it.
        purpose: what it was needed for.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'edgeprune[{extra}]'")


class BackendError(EdgePruneError):
    """A backend or one of its providers is missing, or failed on a graph."""


class CheckFailed(EdgePruneError):
    """A check ran to its end and found a difference."""

    exit_code: ClassVar[int] = 3
