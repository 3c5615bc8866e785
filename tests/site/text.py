"""Markdown as the site needs it: links lead to pages of the site, names to the reference."""

import os
import re
from collections.abc import Callable
from pathlib import PurePosixPath

# A fenced block and a formula stay as they are; code in a line and links are looked at.
PIECES = re.compile(
    r"(?P<fence>^(?P<mark>```+|~~~+)[^\n]*\n.*?^(?P=mark)[ \t]*$)"
    r"|(?P<math>\$\$.*?\$\$)"
    r"|(?P<code>(?P<ticks>`+)(?P<inside>[^`\n]+)(?P=ticks))"
    r"|(?P<link>(?P<bang>!?)\[(?P<words>(?:[^\[\]`]|`[^`\n]*`)*)\]\((?P<target>[^)\s]+)\))",
    re.M | re.S,
)


def rewrite(
    text: str,
    link: Callable[[str, str, bool], str],  # (words, target, is_picture) to Markdown
    code: Callable[[str], str],  # what is between the backticks, to Markdown
) -> str:
    """Replace links and inline code in Markdown, but not inside code blocks and formulas."""

    def replaced(match: re.Match) -> str:
        if match["link"]:
            words = rewrite(match["words"], link, lambda inside: f"`{inside}`")
            return link(words, match["target"], bool(match["bang"]))
        if match["code"]:
            return code(match["inside"]) if match["ticks"] == "`" else match[0]
        return match[0]

    return PIECES.sub(replaced, text)


def repository_path(target: str, folder: str) -> tuple[str, str]:
    """The path in the repository that a link in a file of `folder` leads to, and its anchor."""
    path, _, anchor = target.partition("#")
    return os.path.normpath(PurePosixPath(folder, path)) if path else "", anchor


def relative(target: str, page: str) -> str:
    """`target`, a path in the site's source, as seen from the file `page` there."""
    return PurePosixPath(os.path.relpath(target, PurePosixPath(page).parent)).as_posix()


def slug(heading: str) -> str:
    """A heading's anchor as Jupyter makes it, as notebooks link to their own headings."""
    return re.sub(r"\s+", "-", heading.strip())
