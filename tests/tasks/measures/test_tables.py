import pandas as pd

from tasks.measures.tables import for_spreadsheets, short_paths


def test_for_spreadsheets_leaves_no_formula_and_keeps_numbers(tmp_path):
    texts = ["=HYPERLINK(1)", "+1", "-x", "@SUM(1)", "\t=1", "\r=1", "a\r=b", "", "'="]
    table = pd.DataFrame({"text": texts, "number": -1.5, "right": True})
    for_spreadsheets(table).to_csv(tmp_path / "table.csv", index=False)
    table_read = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert table_read["text"].tolist() == [f"'{text}" for text in texts[:5]] + ["'\n=1", "a\n=b", "", "'="]
    assert table_read[["number", "right"]].equals(table[["number", "right"]])


def test_short_paths_stay_apart():
    assert short_paths(pd.Series(["a/b/easy", "a/b/hard", "a/b/easy"])).tolist() == ["easy", "hard", "easy"]
    assert short_paths(pd.Series(["enron1/ham", "enron2/ham"])).tolist() == ["enron1/ham", "enron2/ham"]
    assert short_paths(pd.Series(["x/y", "y"])).tolist() == ["x/y", "y"]
    assert short_paths(pd.Series([], dtype=object)).tolist() == []
