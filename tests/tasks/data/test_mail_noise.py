"""Footers of lists and blocks that no person reads are cut out of a mail, and nothing else."""

import pytest

from tasks.data.mail import clean_mail, parse_message
from tasks.data.mail.noise import without_footers

FILTER = "--DeathToSpamDeathToSpamDeathToSpam--"
YAHOO = """\
---------------------------------------------------------------------~->

To unsubscribe from this group, send an email to:

Your use of Yahoo! Groups is subject to http://docs.yahoo.com/info/terms/"""
FORK = "To unsubscribe from this group, send an email to:"


@pytest.mark.parametrize("footer", [FILTER, YAHOO, FORK, "> " + FORK])
def test_footer_of_a_list_is_cut_off_and_the_mail_stays(footer):
    assert without_footers(f"Hello,\n\nit works.\nLuis\n{footer}") == "Hello,\n\nit works.\nLuis"
    assert clean_mail("", f"It works.\n\n{footer}")[1] == "It works."
    assert parse_message(f"Subject: Hello\n\nAbove.\n\n{footer}\n\nBelow.")[1] == "Above.\n\nBelow."


@pytest.mark.parametrize(
    "body",
    [
        "You can join at http://x.org/mailman/listinfo/cats, it costs nothing.",
        "-- DeathToSpam is the name of the list --\n" + "\n".join(f"line {n}" for n in range(9)),
        "Dear all,\n---------\nTuesday at noon.\n---------\nAnna",
        FORK,
    ],
)
def test_mail_about_a_list_or_of_a_footer_alone_stays(body):
    assert without_footers(body) == body


@pytest.mark.parametrize(
    "above",
    [
        "--",
        "-- ",
        "-------\nThis sf.net email is sponsored by: us",
        "____\nhttp://x.org/mailman/listinfo/x",
        "Your use of Yahoo! Groups is subject to",
        "-----BEGIN PGP SIGNATURE-----\nComment: buy pills",
        "begin 644 words",
    ],
)
def test_text_below_a_line_of_a_filter_stays(above):
    lines = ["Cheap pills at http://pills.example today"] * 4
    text = "\n".join(["Dear Anna,\n", above, *lines, "-----END PGP SIGNATURE-----"])
    assert clean_mail("", text)[1].count("pills.example") == 4
    assert parse_message(f"Subject: Hello\n\n{text}")[1].count("pills.example") == 4


BASE64 = "\n".join(["iQEVAwUBPW5AmaHbXyzZsAb3AQH+qQgA1vnUjJUwGDa1yCRQd3vZAnhkCF0KDBBA"] * 3 + ["HlFSecw=="])
SIGNED = f"-----BEGIN PGP SIGNATURE-----\n{BASE64}\n-----END PGP SIGNATURE-----"


@pytest.mark.parametrize("block", [BASE64, SIGNED, "> " + SIGNED.replace("\n", "\n> ")])
def test_blocks_that_no_person_reads_are_cut_out(block):
    assert clean_mail("", f"Above.\n\n{block}\n\nBelow.")[1] == "Above.\n\nBelow."
    assert clean_mail("", f"-----BEGIN PGP SIGNED MESSAGE-----\n\nAbove.\n{block}")[1] == "Above."


@pytest.mark.parametrize(
    "body",
    [BASE64, BASE64[:129], "\n".join(["Buy/cheap/pills/at/our/shop/today/and/visit/the/pharmacy/right/now/x"] * 4)],
)
def test_mail_of_a_block_alone_or_without_one_stays(body):
    assert clean_mail("", body)[1] == body
