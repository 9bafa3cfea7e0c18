"""The role ``{pass-time}``: how long one pass over the training images takes, by a recorded speed."""

from __future__ import annotations

from pathlib import Path

import project  # noqa: F401  (helpers on the path)
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from helpers.progress import duration
from helpers.stamps import read, records

LOGGER = logging.getLogger(__name__)


def pass_time(notebook: Path, key: str, images: int) -> str:
    """The time of one pass, such as "5.6 s" or "2 min 04 s".

    Args:
        notebook: path of an executed notebook.
        key: name of the record that holds its speed, in images a second.
        images: number of training images.

    Raises:
        ValueError: there is no such record, or it is not a speed.
    """
    text = records(read(notebook.stem, notebook.parent)).get(key)
    try:
        seconds = images / float(str(text).split()[0].replace(",", ""))
    except (ValueError, ZeroDivisionError, IndexError):
        raise ValueError(f"{notebook.name}: {key} is {text!r}, not a number of images a second") from None
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


class TimeOfPass(SphinxRole):
    """``{pass-time}`01_lenet5:lenet5-images-per-second:55000` ``: the time of a pass over 55,000 images."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Paste the time, or warn."""
        path = Path(self.env.doc2path("notebooks/" + self.text.partition(":")[0]))
        self.env.note_dependency(str(path))
        try:
            _, key, images = self.text.split(":")
            return [nodes.Text(pass_time(path, key, int(images)))], []
        except (ValueError, FileNotFoundError) as error:
            LOGGER.warning("%s", error, type="course", subtype="pass-time", location=self.get_location())
            return [], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the role."""
    app.add_role("pass-time", TimeOfPass())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
