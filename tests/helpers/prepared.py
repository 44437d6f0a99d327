"""Data sets as shards, and what is compared of them."""

from pathlib import Path

from tests.helpers.commands import command


def prepare(kind: str, source: Path, out: Path, *more: str, code: int = 0) -> str:
    """Runs the command in this process; what it printed and logged."""
    flags = (f"--from={kind}", f"--source={source}", f"--out={out}", "--workers=1", *more)
    return command("prepare", *flags, code=code)


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their name, without those that a killed process leaves."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(files)
        if path.suffix != ".partial"
    }


def shards(folder: Path) -> list[Path]:
    """The shards of a split."""
    return sorted(folder.glob("*.array_record"))
