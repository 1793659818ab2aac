from tasks.applications.foundation.pieces import PIECE, piece_rows, split_pieces


def test_pieces_are_cut_between_words_and_hold_all_of_the_text():
    text = " ".join(f"word{number}" for number in range(900))
    pieces = split_pieces(text)
    assert max(map(len, pieces)) <= PIECE
    assert " ".join(pieces) == text
    assert all(piece.startswith("word") for piece in pieces)


def test_pieces_of_a_longer_word_are_cut_within_it():
    pieces = split_pieces("a" * (2 * PIECE + 5))
    assert "".join(pieces) == "a" * (2 * PIECE + 5)
    assert max(map(len, pieces)) <= PIECE


def test_empty_text_has_no_pieces():
    assert split_pieces(" a\n\nb ") == ["a\n\nb"]
    assert split_pieces("  ") == []


def test_piece_rows_are_the_documents_of_the_test_split(token_files):
    rows = piece_rows(token_files)
    assert rows["id"].str.partition(",")[0].tolist() == ["text 1", "text 2"]
    assert rows["text"][1] == ("the moon sang . " * 9).strip()
    assert rows["bytes"].tolist() == [float(len(text.encode())) for text in rows["text"]]
