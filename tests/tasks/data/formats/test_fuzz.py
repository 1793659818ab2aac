"""Readers of mail, HTML and archives under inputs that nobody chose: no crash, no hang, no file outside the folder."""

import io
import tarfile
import tempfile
import warnings
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from bs4 import BeautifulSoup
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from tasks.data.archives import unpack
from tasks.data.mail import ENDS, RowError, clean_mail, html_text, parse_message

CASES = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---- HTML, against a parser that builds a tree

NAMES = ["p", "div", "td", "tr", "table", "b", "br", "hr", "li", "pre", "title", "script", "style", "template", "ruby"]
NAMES += ["rt", "rp", "textarea", "a", "body", "html", "head", "form", "select", "option", "x-y", "svg", "h1", "P"]
TAGS = st.builds(
    "<{}{}{}>".format, st.sampled_from(["", "/"]), st.sampled_from(NAMES), st.sampled_from(["", " a='b'", "/"])
)
WORDS = [
    "word",
    " ",
    "\n",
    "\t\n ",
    "&amp;",
    "&nbsp;",
    "&lt;p&gt;",
    "é",
    "<",
    ">",
    "<!-- c -->",
    "<!doctype html>",
    "<?pi x?>",
]
WORDS += ["<![CDATA[x]]>", "\0", "\ufeff", "</", "<!--", "&#0;", "&#xd800;", '<a href="', "]]>", "\r\n"]
HTML = st.lists(TAGS | st.sampled_from(WORDS) | st.text(max_size=4), max_size=24).map("".join)


def by_a_tree(html: str) -> str:
    """What a person sees, from the tree that Beautiful Soup makes of lxml's events."""
    with warnings.catch_warnings(action="ignore"):
        soup = BeautifulSoup(html, "lxml")
    for tag in soup(["script", "style", "title"]):
        tag.decompose()
    for mark in ("\n", " "):
        for tag in soup([name for name, end in ENDS.items() if end == mark]):
            tag.append(mark)
    return soup.get_text()


def sayable(text: str) -> str:
    """Without halves of surrogate pairs, which no mail gets to the parser."""
    return text.encode(errors="ignore").decode()


@CASES
@given(HTML)
@example("<p>a<!-- -->\n<!-- -->\n<b> </b>")
@example("<ruby>a<rt>b<p>c</p></rt></ruby>")
@example("<template><p>a</template>b")
@example("<pre> \n </pre> \n <textarea>\n</textarea>")
@example("</p></br></td>a")
def test_html_is_what_a_tree_of_it_says(html):
    html = sayable(html)
    assert html_text(html) == by_a_tree(html)


@CASES
@given(st.integers(1, 400), st.sampled_from(["div", "b", "table><tr><td", "ul><li", "form"]), HTML)
def test_deep_html_loses_its_structure_and_none_of_its_words(depth, name, rest):
    found = html_text(f"<{name}>" * depth + "inside " + sayable(rest))
    assert "inside" in found


# ---- mail

HEADERS = [
    "Subject: a",
    "Subject: =?utf-8?q?=C3=A9?=",
    "Subject: =?x?y?z?=",
    "Content-Type: text/html",
    "Content-Type: text/plain; charset=\udcff",
]
HEADERS += [
    "Content-Type: multipart/mixed; boundary=b",
    'Content-Type: multipart/alternative; boundary="b',
    "Content-Type: /",
]
HEADERS += [
    "Content-Type: message/rfc822",
    "Content-Transfer-Encoding: base64",
    "Content-Transfer-Encoding: quoted-printable",
]
HEADERS += [
    "Content-Transfer-Encoding: uuencode",
    "MIME-Version: 1.0",
    "Content-Disposition: attachment",
    ": x",
    "From x",
    " folded",
]
LINES = st.sampled_from([*HEADERS, "", "", "--b", "--b--", "text", "<html>", "=E9=", "w6k=", "begin 666 x", "\xff"])
MESSAGES = st.lists(LINES | st.text(max_size=8), max_size=20).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogateescape")
)


@CASES
@given(MESSAGES | st.binary(max_size=200))
def test_a_message_is_tidy_text_or_no_mail(content):
    try:
        subject, body = parse_message(content)
    except RowError:
        return
    assert clean_mail(subject, body) == (subject, body)


# ---- archives

MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["a", "a/b", "../x", "/x", "..", ".", "a/../../x", "a\\..\\x", "C:x", "é", "x" * 300, "a//b", "./a"]
        ),
        st.sampled_from(["file", "folder", "symbolic link", "hard link", "device"]),
        st.binary(max_size=20),
    ),
    min_size=1,
    max_size=5,
)
KINDS = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "device": tarfile.CHRTYPE,
}


def tarred(members: list[tuple[str, str, bytes]], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = KINDS[kind], "../../x"
            member.size = len(content) if kind == "file" else 0
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(members: list[tuple[str, str, bytes]]) -> bytes:
    stream = io.BytesIO()
    modes = {"file": 0o100644, "folder": 0o040755, "symbolic link": 0o120777, "hard link": 0o100644, "device": 0o020644}
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(stream, "w") as archive:
        for name, kind, content in members:
            member = zipfile.ZipInfo(name)
            member.external_attr = modes[kind] << 16
            archive.writestr(member, content)
    return stream.getvalue()


def changed(content: bytes, changes: list[tuple[float, int]]) -> bytes:
    """The bytes with some of them replaced, each at a share of the length."""
    found = bytearray(content)
    for place, byte in changes:
        found[int(place * len(found))] = byte
    return bytes(found)


@CASES
@given(
    MEMBERS,
    st.sampled_from([zipped, *(partial(tarred, mode=mode) for mode in ("w", "w:gz", "w:bz2", "w:xz"))]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0.3, 1),
)
def test_an_archive_is_unpacked_into_its_folder_or_refused(members, make, changes, share):
    content = changed(make(members), changes)
    content = content[: int(len(content) * share)] if share < 0.9 else content
    with tempfile.TemporaryDirectory() as folder:
        archive, out = Path(folder, f"a.{'zip' if make is zipped else 'tar'}"), Path(folder, "inside/out")
        archive.write_bytes(content)
        out.mkdir(parents=True)
        with suppress(UserError):
            unpack(archive, "*", out, max_bytes=10_000)
        everything = {path for path in Path(folder).rglob("*") if not path.is_relative_to(out)}
        assert everything == {archive, out.parent}
        assert not any(path.is_symlink() for path in out.rglob("*"))
        assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) <= 10_000
