"""A person's shell, written down as Markdown: what was typed, what it printed, and a sentence between."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

CUT, FENCE = "…", "```"
TIDIED = (  # what differs from one time to the next
    (r"\x1b\[[0-9;]*m", ""),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", CUT),
    (r"\b[0-9a-f]{32,64}\b", CUT),
    (r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,10}\b", CUT),  # a commit
    (r"\d{4}-\d\d-\d\d(T[\d:.]+(\+00:00|Z)?)?", CUT),
    (r"Done in \d+ min \d+ s", f"Done in {CUT}"),
    (r"^((?:\|[^|\n]*){3}\|) \d+ \|$", rf"\1 {CUT} |"),  # seconds, the last of four columns
)


class Console:
    """Runs lines as a shell does in a folder, and keeps what becomes a page."""

    def __init__(self, folder: Path, variables: Mapping[str, str], shown: Mapping[str, str]) -> None:
        """`shown` is what stands in the page for what the lines really have, such as a port."""
        self.folder, self.variables, self.shown = folder, dict(variables), dict(shown)
        self.parts: list[str] = []

    def tidy(self, text: str) -> str:
        """Without paths of this machine, ids and times."""
        for real, shown in self.shown.items():
            text = text.replace(real, shown)
        for pattern, shown in TIDIED:
            text = re.sub(pattern, shown, text, flags=re.MULTILINE)
        return "\n".join(line.rstrip() for line in text.splitlines())

    def say(self, text: str) -> None:
        """A piece of the page's own."""
        self.parts.append(text.strip())

    def quote(self, page: str, keep: str | None = None) -> None:
        """A page that a person reads elsewhere."""
        self.say("\n".join(f"> {line}".rstrip() for line in self._kept(page, keep)))

    def show(self, line: str, printed: str = "", keep: str | None = None) -> None:
        """A line that was typed, and what it printed."""
        kept = [each for each in self._kept(printed, keep) if each]
        said = "\n".join([f"$ {self.tidy(line)}", *kept, FENCE])
        if self.parts and self.parts[-1].endswith(f"\n{FENCE}"):  # nothing was said since the line before
            self.parts[-1] = self.parts[-1].removesuffix(FENCE) + said
        else:
            self.say(f"{FENCE}console\n{said}")

    def run(self, line: str, check: bool = True) -> str:
        """What a line prints, which has to end well unless `check` is False."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def type(self, line: str, keep: str | None = None) -> str:
        """Run a line, write it down with those lines of its output that have `keep`, and return all that it printed."""
        printed = self.run(line)
        self.show(line, printed, keep)
        return printed

    def page(self) -> str:
        """All of it as Markdown."""
        return "\n\n".join(self.parts) + "\n"

    def _kept(self, text: str, keep: str | None) -> list[str]:
        """The lines with `keep`, and one mark for each run of others."""
        kept: list[str] = []
        for line in self.tidy(text).strip("\n").splitlines():
            if keep is None or re.search(keep, line):
                kept.append(line)
            elif kept[-1:] != [CUT]:
                kept.append(CUT)
        return kept
