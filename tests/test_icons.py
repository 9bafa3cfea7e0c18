"""The theme's icon script, cut to the icons in use."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "book" / "_ext"))

import icons


class App:
    """As much of Sphinx as `keep_used_icons` looks at."""

    def __init__(self, folder: Path) -> None:
        self.outdir = str(folder)
        self.builder = type("Builder", (), {"format": "html"})


def test_keep_used_icons_drops_only_what_no_page_names(tmp_path):
    script = tmp_path / "_static" / "scripts" / "fontawesome.js"
    script.parent.mkdir(parents=True)
    glass = '"magnifying-glass":[512,512,[128269,"search"],"f002","M1"]'
    bars, moon = 'bars:[448,512,["navicon"],"f0c9","M0"]', 'moon:[384,512,[],"f186",["M2","M3"]]'
    yelp = 'yelp:[384,512,[],"f1e9","M4"]'
    script.write_text(f"a={{{yelp},{bars},{glass},{moon},{yelp}}};go()", "utf-8")
    (tmp_path / "page.html").write_text(
        '<i class="fa-solid fa-bars"></i><i class="fas fa-search"></i>', "utf-8"
    )
    (tmp_path / "theme.js").write_text('icon("fa-moon")', "utf-8")
    icons.keep_used_icons(App(tmp_path), None)
    assert script.read_text("utf-8") == f"a={{{bars},{glass},{moon},}};go()"


def test_keep_used_icons_leaves_a_failed_build_alone(tmp_path):
    icons.keep_used_icons(App(tmp_path), RuntimeError("the build failed"))  # there is no script to read
