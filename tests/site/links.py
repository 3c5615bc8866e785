"""Follows every link of a built site, without a network."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # what a browser loads by itself: tag and attribute
    ("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "srcset"), ("source", "src"),
    ("video", "src"), ("audio", "src"), ("embed", "src"), ("object", "data"),
}  # fmt: skip
FETCHED = {"stylesheet", "preload", "modulepreload", "icon", "preconnect", "dns-prefetch"}


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        for name, value in attributes:
            if value and (tag, name) in LOADED:
                self.loads.add(value)
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        if tag == "link" and given.get("href"):
            fetched = FETCHED & set((given.get("rel") or "").split())
            (self.loads if fetched else self.links).add(given["href"])


def read_site(folder: Path) -> dict[Path, Page]:
    return {
        path.resolve(): Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")
    }


def foreign_loads(folder: Path) -> list[str]:
    """What pages would load from another host."""
    return sorted(
        f"{path.name}: {url}"
        for path, page in read_site(folder).items()
        for url in page.loads
        if urlsplit(url).netloc or urlsplit(url).scheme not in ("", "data")
    )


def broken_links(folder: Path) -> list[str]:
    """Links and loaded files that are not there, and anchors that a page does not have."""
    pages, broken = read_site(folder), []
    for path, page in pages.items():
        for url in page.links | page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else set()
            if not target.is_file() or anchor and target in pages and anchor not in known:
                broken.append(f"{path.relative_to(folder.resolve())}: {url}")
    return sorted(broken)
