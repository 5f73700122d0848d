"""Checks every link between the pages of a folder of HTML: `python links.py target/docs`.

A page, picture, script or anchor that is not there fails, Doxygen's pages included, and so does what a page loads from
another server. Links to other servers are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the anchor and the link of an element."""
        for key, value in attrs:
            if not value:
                continue
            if key == "id" or (key == "name" and tag == "a"):
                self.anchors.add(value)
            elif key == "src" or (key == "href" and tag == "link"):
                self.loaded.append(value)
            elif key == "href":
                self.links.append(value)


def broken(folder: Path) -> tuple[int, list[str]]:
    """How many links were followed, and a line for each that leads nowhere."""
    folder = folder.resolve()
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    lines, count = [], 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("data", "javascript") or (link in page.links and (parts.scheme or parts.netloc)):
                continue
            count += 1
            if parts.scheme or parts.netloc:
                lines.append(f"{path.relative_to(folder)}: {link}: loaded from another server")
                continue
            why = _wrong(path, unquote(parts.path), unquote(parts.fragment), pages, folder)
            if why:
                lines.append(f"{path.relative_to(folder)}: {link}: {why}")
    return count, lines


def _wrong(path: Path, target: str, anchor: str, pages: dict[Path, Page], folder: Path) -> str | None:
    if target.startswith("/"):
        return "an absolute path"
    at = (path.parent / target).resolve() if target else path
    at = at / "index.html" if at.is_dir() else at
    if folder not in at.parents:
        return "outside of the site"
    if not at.exists():
        return "no such file"
    if anchor and at in pages and anchor not in pages[at].anchors and anchor != "__skip":
        return f"no such anchor in {at.relative_to(folder)}"
    return None


def main(arguments: list[str]) -> int:
    """Prints what is broken; 1 when something is, or when there is nothing to check."""
    if len(arguments) != 1:
        print("usage: links.py FOLDER", file=sys.stderr)
        return 2
    count, lines = broken(Path(arguments[0]))
    for line in lines:
        print(line, file=sys.stderr)
    print(f"{count} links, {len(lines)} broken")
    return 1 if lines or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
