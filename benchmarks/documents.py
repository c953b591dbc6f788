"""Where measured text goes: between two comments of a document."""

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write_measured(path: Path, what: str, text: str) -> None:
    """Replace what was measured in a document, where it has a place for it."""
    begin, end = f"<!-- measured: {what} -->", f"<!-- end of {what} -->"
    content = path.read_text(encoding="utf-8")
    if begin in content:
        before, _, rest = content.partition(begin)
        path.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")
