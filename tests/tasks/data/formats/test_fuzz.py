"""Readers of mail, HTML and compressed files under inputs that nobody chose: no crash and no hang."""

import bz2
import gzip
import json
import lzma
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from bs4 import BeautifulSoup, CData, NavigableString
from bs4.element import RubyParenthesisString, RubyTextString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from tasks.data.compression import open_plain, zstd
from tasks.data.mail import RowError, clean_mail, parse_message
from tasks.data.mail.html import DROPPED, ENDS, html_text

CASES = settings(max_examples=200)

SECONDS = 2  # of processor time for one of these inputs, none of which is large


@contextmanager
def soon() -> Iterator[None]:
    """Fails where what is inside takes long."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def changed(content: bytes, changes: list[tuple[float, bytes, int]]) -> bytes:
    """The bytes, each time with some put in at a share of the length, in the place of so many."""
    result = bytearray(content)
    for share, put, length in changes:
        start = int(share * len(result))
        result[start : start + length] = put
    return bytes(result)


# ---- HTML, against a parser that builds a tree

NAMES = "p div td tr table b br hr li pre title script style ruby iframe rt rp textarea a body html head form select"
TAGS = st.builds(
    "<{begin}{name}{end}>".format,
    begin=st.sampled_from(["", "/"]),
    name=st.sampled_from([*NAMES.split(), "option", "x-y", "svg", "h1", "P"]),
    end=st.sampled_from(["", " a='b'", "/"]),
)
WORDS = ["word", " ", "\n", "\t\n ", "&amp;", "&nbsp;", "&lt;p&gt;", "é", "<", ">", "<!-- c -->", "<!doctype html>"]
WORDS += ["<?pi x?>", "<![CDATA[x]]>", "\0", "\ufeff", "</", "<!--", "&#0;", "&#xd800;", '<a href="', "]]>", "\r\n"]
HTML = st.lists(TAGS | st.sampled_from(WORDS) | st.text(max_size=4), max_size=24).map("".join)


def by_a_tree(html: str) -> str:
    """What a person sees, from the tree that Beautiful Soup makes of lxml's events."""
    with warnings.catch_warnings(action="ignore"):
        soup = BeautifulSoup(html, "lxml")
    for tag in soup(DROPPED):
        tag.decompose()
    begins = {"\n": "\ue000", " ": "\ue001"}
    for mark, begin in begins.items():
        for tag in soup([name for name, end in ENDS.items() if end == mark]):
            tag.insert_before(begin)
            tag.append(mark)
    seen = ""
    for letter in soup.get_text(types=(NavigableString, CData, RubyTextString, RubyParenthesisString)):
        mark = next((mark for mark, begin in begins.items() if begin == letter), letter)
        if mark is letter or (seen and seen[-1] not in " \n"):
            seen += mark
    return seen


def sayable(text: str) -> str:
    """Without halves of surrogate pairs, which no mail gets to the parser."""
    return text.encode(errors="ignore").decode()


@CASES
@given(HTML)
@example("<p>a<!-- -->\n<!-- -->\n<b> </b>")
@example("<ruby>a<rt>b<p>c</p></rt></ruby>")
@example("<pre> \n </pre> \n <textarea>\n</textarea>")
@example("</p></br></td>a")
def test_html_is_what_a_tree_of_it_says(html):
    html = sayable(html)
    assert html_text(html) == by_a_tree(html)


@CASES
@given(st.integers(1, 400), st.sampled_from(["div", "b", "table><tr><td", "ul><li", "form"]), HTML)
def test_html_that_is_deep_loses_its_structure_and_none_of_its_words(depth, name, inner):
    assert "inside" in html_text(f"<{name}>" * depth + "inside " + sayable(inner))


# ---- mail

HEADERS = ["Subject: a", "Subject: =?utf-8?q?=C3=A9?=", "Subject: =?x?y?z?=", "MIME-Version: 1.0", ": x", "From x"]
HEADERS += ["Content-Type: multipart/mixed; boundary=b", 'Content-Type: multipart/alternative; boundary="b']
HEADERS += [f"Content-Type: {kind}" for kind in ("text/html", "/", "message/rfc822", "text/plain; charset=\udcff")]
HEADERS += [f"Content-Transfer-Encoding: {name}" for name in ("base64", "quoted-printable", "uuencode")]
HEADERS += ["Content-Disposition: attachment", " folded"]
LINES = st.sampled_from([*HEADERS, "", "", "--b", "--b--", "text", "<html>", "=E9=", "w6k=", "begin 666 x", "\xff"])


def as_message(lines: list[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogateescape")


MESSAGES = st.lists(LINES | st.text(max_size=8), max_size=20).map(as_message)
TYPES = ["text/plain", "text/html", "text/calendar", "image/gif", "message/rfc822", "text", "x/y/z", ""]
CHARSETS = ["utf-8", "latin-1", "utf-16", "utf-7", "gb2312", "idna", "rot13", "undefined", "none", "\0"]
ENCODINGS = ["7bit", "8bit", "base64", "quoted-printable", "x-uuencode", "none"]
CONTENTS = HTML.map(sayable).map(str.encode) | st.binary(max_size=30)


def leaf(kind: str, charset: str, encoding: str, content: bytes) -> bytes:
    head = f"Content-Type: {kind}; charset={charset}\nContent-Transfer-Encoding: {encoding}\n\n"
    return head.encode() + content


LEAVES = st.builds(
    leaf,
    kind=st.sampled_from(TYPES),
    charset=st.sampled_from(CHARSETS),
    encoding=st.sampled_from(ENCODINGS),
    content=CONTENTS,
)


def multipart(kind: str, boundary: str, parts: list[bytes], is_closed: bool) -> bytes:
    head = f"Content-Type: multipart/{kind}; boundary={boundary}\n\n".encode()
    return head + b"".join(b"--b\n" + part + b"\n" for part in parts) + b"--b--\n" * is_closed


def trees_of(parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        multipart,
        kind=st.sampled_from(["mixed", "alternative", "related", "signed", "x"]),
        boundary=st.sampled_from(["b", "b", "b", '"b"', '"b', "", "other"]),
        parts=st.lists(parts, max_size=4),
        is_closed=st.booleans(),
    )


TREES = st.recursive(LEAVES, trees_of, max_leaves=8)
HEADS = st.sampled_from([b"", b"MIME-Version: 1.0\n", b"Subject: =?utf-8?b?w6k=?=\n", b"\n"])


@cache
def real_messages() -> list[bytes]:
    """Messages of the default data, the longest cut."""
    with tarfile.open(Path(__file__).parents[3] / "data/emails.tgz") as archive:
        files = [archive.extractfile(member) for member in archive.getmembers()[::4]]
        return [json.load(file)["text"].encode()[:20_000] for file in files if file]


BITS = [b"", b"\n\n", b"--", b"=", b"<", b">", b"\0", b"\xff\xfe", b"\r", b"\x85", b"&#0;", b"-- \n", b"?=", b"<html>"]
BITS += [b"=?utf-8?b?", b"\nContent-Type: message/rfc822\n\n", b"\nContent-Transfer-Encoding: base64\n\n", b"</xmp>"]
BITS += [
    b"begin 666 x\n",
    b"charset=a\0",
    b'\nContent-Type: multipart/mixed; boundary="',
    b"-----BEGIN PGP SIGNATURE-----\n",
]
PLACES = st.floats(0, 1, exclude_max=True)


def real_message(number: int, changes: list[tuple[float, bytes, int]]) -> bytes:
    return changed(real_messages()[number], changes)


REAL = st.builds(
    real_message,
    st.integers(0, 59),
    st.lists(st.tuples(PLACES, st.sampled_from(BITS) | st.binary(max_size=2), st.integers(0, 300)), max_size=8),
)


@settings(max_examples=500)
@given(MESSAGES | st.binary(max_size=200) | st.builds(bytes.__add__, HEADS, TREES) | REAL)
def test_message_is_tidy_text_or_no_mail(content):
    with soon():
        try:
            subject, body = parse_message(content)
        except RowError:
            return
        assert clean_mail(subject, body) == (subject, body)


# ---- compressed files

CHANGES = st.lists(st.tuples(PLACES, st.binary(min_size=1, max_size=1), st.just(1)), max_size=8)
COMPRESSIONS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}


@CASES
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from([*COMPRESSIONS]),
    frames=st.integers(1, 2),
    changes=CHANGES,
    share=st.floats(0, 2),
)
def test_corrupt_compressed_file_is_named(content, suffix, frames, changes, share):
    whole = COMPRESSIONS[suffix](content) * frames  # one behind another is one file
    spoiled = changed(whole, changes)[: int(share * len(whole))]
    with tempfile.TemporaryDirectory() as folder, soon():
        path = Path(folder, f"a.txt{suffix}")
        path.write_bytes(spoiled)
        plain = None
        reason = ""
        try:
            with open_plain(path) as file:
                plain = file.read()
        except UserError as error:
            reason = str(error)
    assert plain is not None or reason.startswith(f"{path}: not readable as a compressed file: ")
    if spoiled == whole:
        assert plain == content * frames
