"""What a check is, and what it finds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pix2seq_jax.data.validation.dataset import DataSet

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = {
    ERROR: "training refuses it, or would learn or measure something wrong",
    WARNING: "training repairs or leaves it out, or it is hardly meant",
    NOTE: "worth knowing",
}
KEPT = 100  # findings of a check and a file that are kept; all are counted


class Finding(NamedTuple):
    """One thing that a check found.

    Attributes:
        source: path of the annotation file, or of the image file or folder that it is about.
        value: what is there, one line.
        image_id, annotation_id: as in the annotation file; None where it is about neither.
        files: paths of the images that show it.
    """

    source: str
    value: str
    image_id: int | None = None
    annotation_id: int | str | None = None
    files: tuple[str, ...] = ()


Batch = tuple[int, list[Finding]]  # how many were found, and at most KEPT of them


@dataclass(frozen=True)
class Check:
    """One line of the table of checks.

    Attributes:
        name: in kebab-case; it stays, since reports are compared by it.
        severity: of SEVERITIES.
        meaning: what is wrong, after a number and a colon.
        remedy: what to do.
        find: looks through a data set.
        opens: whether it needs the contents of the image files.
        lists: whether it needs their names.
    """

    name: str
    severity: str
    meaning: str
    remedy: str
    find: Callable[["DataSet"], Iterable[Batch]]
    opens: bool = False
    lists: bool = False


@dataclass(frozen=True)
class Result:
    """What a check found.

    Attributes:
        check: which one.
        total: how many.
        findings: the first of them, at most KEPT of each file.
    """

    check: Check
    total: int
    findings: list[Finding]


def run(check: Check, data: "DataSet") -> Result:
    """All that one check finds."""
    batches = list(check.find(data))
    findings = [finding for _, kept in batches for finding in kept]
    return Result(check, sum(total for total, _ in batches), findings)


def batch(findings: list[Finding]) -> Batch:
    """These findings, cut at KEPT."""
    return len(findings), findings[:KEPT]
