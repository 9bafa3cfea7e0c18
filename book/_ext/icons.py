"""Keep in the built book only those icons that its pages use.

The theme brings 2,000 Font Awesome icons as one script of 1.5 MB, loaded by every page. The book shows about
twenty of them; with only those the script weighs about 80 kB.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

# name:[width, height, [aliases], "code point", "path"], as the script's own tables write it
ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
ALIAS = re.compile(r'"([\w-]+)"')


def keep_used_icons(app: Sphinx, exception: Exception | None) -> None:
    """Cut the icons that no page and no script names out of the theme's icon script."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    script = folder / "_static" / "scripts" / "fontawesome.js"
    sources = [*folder.rglob("*.html"), *(path for path in folder.rglob("*.js") if path != script)]
    used = {name for path in sources for name in re.findall(r"\bfa-([\w-]+)", path.read_text("utf-8"))}

    def kept(icon: re.Match[str]) -> str:
        return icon[0] if used & {icon[1], *ALIAS.findall(icon[2])} else ""

    script.write_text(ICON.sub(kept, script.read_text("utf-8")), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after the last page is written."""
    app.connect("build-finished", keep_used_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
