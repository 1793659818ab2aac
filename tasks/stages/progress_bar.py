"""Progress of long work: a bar on a terminal, a log line now and then anywhere else."""

import io
import logging
import sys
import time
from typing import Any

from tqdm import tqdm

LOG_EVERY = 10
"""Seconds between log lines."""

logger = logging.getLogger(__name__)


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """A bar of tqdm, which logs its state where there is no terminal: a file would keep every redrawing of a bar."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.is_drawn = sys.stderr.isatty()
        self.logged = time.monotonic()
        if not self.is_drawn:
            options |= {"file": io.StringIO(), "bar_format": "{l_bar}{r_bar}"}
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or log it if the last line is old enough."""
        if self.is_drawn:
            super().display(msg, pos)
            return
        now = time.monotonic()
        if now - self.logged >= LOG_EVERY:
            self.logged = now
            logger.info("%s", str(self).replace("||", ""))
