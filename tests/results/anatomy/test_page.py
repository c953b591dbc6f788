"""The page is one file that needs nothing else, and says what the files say."""

import re
import shlex
import xml.etree.ElementTree as ET

import pytest
from analyses import write_analysis

from results.anatomy import read_analysis, write_analysis_page
from results.anatomy.page import command_of
from results.anatomy.sections import make_sections
from searcher.anatomy.parts import PARTS
from searcher.errors import UsageError


def read_page(path):
    """The page, which must be well-formed, without its doctype."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(element):
    return " ".join(" ".join(element.itertext()).split())


def test_the_page_says_what_the_parts_say(tmp_path):
    write_analysis(tmp_path / "one")
    written = write_analysis_page(tmp_path / "one")
    assert written[0] == tmp_path / "one/analysis.html"
    assert {path.name for path in written[1:]} == {f"{part}.{kind}" for part in PARTS for kind in ("png", "svg")}
    assert all(path.stat().st_size > 1000 for path in written)
    page = read_page(written[0])
    assert [section.get("id") for section in page.iter("section")] == [*PARTS, "repeat"]
    cells = {"".join(cell.itertext()) for cell in page.iter("td")}
    text = words(page)
    for section in make_sections(read_analysis(tmp_path / "one")).values():
        assert section.says in text
        for table in section.tables:
            assert cells >= {cell for row in table.rows for cell in row}
            assert table.note in text
    assert "small & <b>bold</b> in float32 on prose, 5 search windows of 32 tokens" in text
    assert text.count("1,234 layer-forwards and 56 heads over a window, and 7.8 seconds") == len(PARTS)
    assert "1.2.3" in cells


def test_the_page_needs_nothing_else(tmp_path):
    write_analysis(tmp_path / "one")
    write_analysis_page(tmp_path / "one")
    page = read_page(tmp_path / "one/analysis.html")
    assert not [element for element in page.iter() if element.tag in ("script", "link", "iframe")]
    sources = [element.get("src") for element in page.iter() if element.get("src")]
    assert len(sources) == len(PARTS)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    anchors = {element.get("id") for element in page.iter()}
    for element in page.iter("a"):
        assert element.get("href").removeprefix("#") in anchors
    (style,) = page.iter("style")
    assert not re.search(r"url\(|@import", style.text)
    assert all(element.get("alt") for element in page.iter("img"))


def test_parts_that_are_missing_are_left_out(tmp_path):
    write_analysis(tmp_path / "one", ["contiguous"], cost={})
    written = write_analysis_page(tmp_path / "one")
    assert [path.name for path in written] == ["analysis.html", "contiguous.png", "contiguous.svg"]
    page = read_page(written[0])
    assert [section.get("id") for section in page.iter("section")] == ["contiguous", "repeat"]
    assert "What measuring it took is not known." in words(page)


def test_facts_that_lack_something_are_refused(tmp_path):
    write_analysis(tmp_path / "one", ["influence"])
    (tmp_path / "one/influence.json").write_text("{}")
    with pytest.raises(UsageError, match=r"influence\.json is damaged: 'correlations' is missing"):
        write_analysis_page(tmp_path / "one")
    assert not (tmp_path / "one/analysis.html").exists()


def test_the_same_folder_gives_the_same_page(tmp_path):
    write_analysis(tmp_path / "one", ["interactions"])
    pages = [write_analysis_page(tmp_path / "one")[0].read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("parts", "named"),
    [(PARTS[:-1], ""), (PARTS, "".join(f"--part {part} " for part in PARTS)), (["heads"], "--part heads ")],
)
def test_the_command_that_measures_it_again(tmp_path, parts, named):
    write_analysis(tmp_path, parts, config={"model": "a b", "trust_remote_code": True, "windows": 5})
    command = command_of(read_analysis(tmp_path)).replace("\\\n", "")
    rest = ["--model", "a b", "--trust-remote-code", "--windows", "5"]
    assert shlex.split(command) == ["searcher", "analyze", *named.split(), *rest]
