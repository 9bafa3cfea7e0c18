"""The reader's Chromium, without a window: for the PDF of the book and for the tests of its pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = "Chromium is needed: install chromium or google-chrome, or name its program in CHROMIUM"
# No sandbox: a container has none, and only pages of this course are opened. The rest: no calls home.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def find() -> str | None:
    """The path of Chromium or Chrome: what CHROMIUM names, else the first one on PATH; None without any."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """A running Chromium, closed at the end of the `with` block.

    Raises:
        FileNotFoundError: there is none.
    """
    from playwright.sync_api import sync_playwright

    program = find()
    if not program:
        raise FileNotFoundError(NEEDED)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()
