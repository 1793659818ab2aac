from tasks.applications.foundation.review import PIECE, pieces, rows


def test_a_text_is_cut_between_words_and_nothing_is_lost():
    text = " ".join(f"word{n}" for n in range(900))
    found = pieces(text)
    assert max(map(len, found)) <= PIECE
    assert " ".join(found) == text
    assert all(piece.startswith("word") for piece in found)


def test_a_word_longer_than_a_piece_is_cut_within_and_an_empty_text_has_no_pieces():
    found = pieces("a" * (2 * PIECE + 5))
    assert "".join(found) == "a" * (2 * PIECE + 5)
    assert max(map(len, found)) <= PIECE
    assert pieces(" a\n\nb ") == ["a\n\nb"]
    assert pieces("  ") == []


def test_rows_are_the_documents_of_the_test_split(token_files):
    found = rows(token_files)
    assert [each.split(",")[0] for each in found["id"]] == ["text 1", "text 2"]
    assert found["text"][1] == ("the moon sang . " * 9).strip()
    assert found["bytes"].tolist() == [float(len(text.encode())) for text in found["text"]]
