"""Noise that is cut out of a body: footers of list servers, encoded blocks, and marks of quoted lines."""

import re

# Lines that list servers and a filter (DeathToSpam) put below a mail. None has a part that anybody could write.
FOOTER_LINE = re.compile(
    r"To unsubscribe from this group, send an email to:|-{1,80}~-{1,80}>|(?:-{0,20}DeathToSpam){1,20}-{0,20}"
    r"|Your use of Yahoo! Groups is subject to http://docs\.yahoo\.com/info/terms/"
)
LONGEST_FOOTER_LINE = 500  # characters
QUOTE = ">|) "
QUOTED_LINE = re.compile(r"^[ \t]*(?:[>|][ \t]?)+", re.MULTILINE)
PGP_LINE = re.compile(r"-----(?:BEGIN|END) PGP (?:MESSAGE|PUBLIC KEY BLOCK|SIGNATURE|SIGNED MESSAGE)-----")
# Base64 of at least three lines; it goes where its letters look random.
BASE64 = re.compile(
    r"(?:^{q}[A-Za-z0-9+/]{{60,76}}\n){{3,}}(?:{q}(?:[A-Za-z0-9+/]{{20,76}}|[A-Za-z0-9+/]{{2,75}}==?)$)?".format(
        q=f"[{QUOTE}]*"
    ),
    re.MULTILINE,
)
RANDOM = {r"[A-Z]": 0.2, r"[a-z]": 0.2, r"[0-9]": 0.05}  # least shares of the letters of such a line


def without_noise(body: str) -> str:
    """The body without encoded blocks, footers and marks of quotes."""
    return without_quotes(without_footers(without_encoded(body)))


def without_footers(body: str) -> str:
    """The body without fixed lines that list servers put below it, in quoted mails, too.

    Most lists of a collection carry only ham or only spam: a model would read their footers instead of the mail.
    """
    lines = [line for line in body.split("\n") if not _is_footer_line(line)]
    return "\n".join(lines).strip() or body


def _is_footer_line(line: str) -> bool:
    return len(line) <= LONGEST_FOOTER_LINE and FOOTER_LINE.fullmatch(line.lstrip(QUOTE)) is not None


def without_encoded(body: str) -> str:
    """The body without base64 and the marks of PGP, which no person reads.

    Most people who sign their mails send mails of one label: a model would read the marks instead of the mail.
    """
    lines = [line for line in body.split("\n") if not PGP_LINE.fullmatch(line.lstrip(QUOTE))]
    return BASE64.sub(_without_random, "\n".join(lines)).strip() or body


def _without_random(block: re.Match[str]) -> str:
    """Nothing in place of a block whose lines look random; its last line may be short."""
    lines = [line.lstrip(QUOTE) for line in block[0].strip("\n").split("\n")]
    return "" if all(map(_is_random, lines[:-1])) else block[0]


def _is_random(line: str) -> bool:
    return all(len(re.findall(letters, line)) >= share * len(line) for letters, share in RANDOM.items())


def without_quotes(body: str) -> str:
    """The body without the marks of quoted lines: they show that a mail is an answer, and anybody can write them."""
    return QUOTED_LINE.sub("", body)
