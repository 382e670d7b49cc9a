"""The documents of the repository, taken apart: code blocks, inline code, tables, headings and links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from localdev.hosting import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_OTHER_BLOCK = re.compile(r"^(?:[> ]*(?:```|~~~)| {4,}\S| {0,3}\t).*$", re.MULTILINE)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Render as `docs/deploy.md:25`."""
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the code blocks of all pages; of these languages only, if any are given."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(page, line, match[2], dedent(match[3])))
    return [block for block in found if not languages or block.language in languages]


def block(language: str, *parts: str) -> Block:
    """Return the only block of a language that contains these texts."""
    (found,) = [each for each in blocks(language) if all(part in each.text for part in parts)]
    return found


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def unread_blocks(page: Path) -> list[str]:
    """Return the lines of code blocks that `blocks` does not read: with `~~~`, an indent or another form of fence."""
    return _OTHER_BLOCK.findall(prose(page))


def spans(page: Path) -> list[str]:
    """Return the inline code of a page."""
    return [" ".join(match[2].replace(r"\|", "|").split()) for match in _SPAN.finditer(prose(page))]


def rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without its header."""
    _, _, below = page.read_text(encoding="utf-8").partition(f"# {heading}\n")
    lines = iter(below.splitlines())
    table = [line for line in _first_table(lines) if not re.fullmatch(r"[| -]+", line)]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    return cells[1:]


def _first_table(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if line.startswith("|"):
            yield line
            break
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    return {_slug(match[1]) for match in _HEADING.finditer(prose(page))}


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to other pages and headings."""
    targets = (match[1] for match in _LINK.finditer(_SPAN.sub("", prose(page))))
    return [target for target in targets if not target.startswith(("http://", "https://"))]
