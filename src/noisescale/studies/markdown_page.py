"""A page in Markdown as one HTML file, which holds its pictures and needs no network."""

from __future__ import annotations

import re
from base64 import b64encode
from html import escape
from pathlib import Path

from noisescale.files import write_atomically

__all__ = ["STYLE", "as_html", "write_html"]

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; } figcaption, .quiet { color: #555; font-size: 0.9rem; }
pre { background: #f4f4f4; padding: 0.7rem; overflow-x: auto; } code { font-size: 0.92em; overflow-wrap: anywhere; }
@media print { body { max-width: none; margin: 0; } figure, tr { break-inside: avoid; } }
"""


def as_html(markdown: str, folder: Path) -> str:
    """The page: tables scroll by themselves if they are wide, and links to other pages in Markdown lead to their HTML files.

    Args:
        markdown: CommonMark with tables; HTML inside of it is shown as text.
        folder: that of the pictures, PNG files. One that is missing stays a link.
    """
    from markdown_it import MarkdownIt  # imported here, because few commands write pages

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = re.sub(r'(<a href="(?!\w+:)[^"]*)\.md"', r'\1.html"', body)

    def inside(found: re.Match[str]) -> str:
        file = folder / found[1]
        return f'src="data:image/png;base64,{b64encode(file.read_bytes()).decode()}"' if file.is_file() else found[0]

    body = re.sub(r'src="([\w.-]+\.png)"', inside, body)
    title = next((line.lstrip("# ") for line in markdown.splitlines() if line.startswith("# ")), "")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


def write_html(markdown: str, file: Path) -> None:
    """Write the page, replacing the file; the pictures are those beside it."""
    write_atomically(file, as_html(markdown, file.parent), durable=False)
