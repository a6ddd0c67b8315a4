"""A page in Markdown as one HTML file."""

from __future__ import annotations

from pathlib import Path

from noisescale.studies.markdown_page import as_html, write_html

PAGE = """# A title & more

![the picture](one.png)

| a | b |
| --- | --- |
| [there](other/claim.md) | [outside](https://example.org/x.md) |

<script>alert(1)</script>

![missing](two.png)
"""


def test_it_holds_its_pictures_and_leads_to_other_pages(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"PNG")
    write_html(PAGE, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text == as_html(PAGE, tmp_path)
    assert "<title>A title &amp; more</title>" in text
    assert 'src="data:image/png;base64,UE5H"' in text
    assert 'href="other/claim.html"' in text
    assert 'href="https://example.org/x.md"' in text
    assert '<div class="wide"><table>' in text
    assert "<script>" not in text
    assert 'src="two.png"' in text
