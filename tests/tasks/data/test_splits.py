from functools import cache

import numpy as np
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.cleaning.record import recorded
from tasks.data.cleaning.rules import without_known_lines
from tasks.data.shingles import same, text_hashes
from tasks.data.splits import Split, check_train_only, deduplicate, near_duplicates, near_pairs, overlap, split
from tasks.datasets.emails import row_text, thread

PARAMS = Split(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)


def random_text(generator, words=100):
    return " ".join(f"word{n}" for n in generator.integers(5_000, size=words))


@cache
def shingles(text):
    words = text.lower().split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def jaccard(left, right):
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


@pytest.fixture(scope="module")
def varied():
    """150 texts in 50 families, whose members differ from the first by zero to seven changed words."""
    generator, texts = np.random.default_rng(3), []
    for _ in range(50):
        words = random_text(generator).split()
        for _ in range(3):
            changed = words.copy()
            for place in generator.integers(100, size=generator.integers(8)):
                changed[place] = "changed"
            texts.append(" ".join(changed))
    return texts


def test_groups_are_those_of_the_exact_jaccard_similarity_of_all_pairs(varied):
    groups = near_duplicates(varied, 0.8)
    expected = np.arange(len(varied))
    for right in range(len(varied)):
        for left in range(right):
            if jaccard(varied[left], varied[right]) >= 0.8:
                expected[expected == expected[right]] = expected[left]
    assert groups.tolist() == pd.factorize(expected)[0].tolist()
    assert 50 < groups.max() + 1 < 150
    chain = [" ".join(f"w{n}" for n in range(start, start + 60)) for start in range(0, 40, 5)]
    assert jaccard(chain[0], chain[-1]) < 0.5 < jaccard(chain[0], chain[1])
    assert set(near_duplicates(chain, 0.8)) == {0}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_a_pair_belongs_together_just_from_the_threshold_on(threshold):
    words = [f"w{n}" for n in range(102)]  # 100 shingles
    common = round(200 * threshold / (1 + threshold))
    close = words[: common + 3] + [f"x{n}" for n in range(99 - common)]
    far = words[: common + 1] + [f"x{n}" for n in range(101 - common)]
    reference, close, far = " ".join(words), " ".join(close), " ".join(far)
    assert jaccard(reference, close) >= threshold > jaccard(reference, far)
    assert near_duplicates([reference, close], threshold).tolist() == [0, 0]
    assert near_duplicates([reference, far], threshold).tolist() == [0, 1]


def test_case_and_punctuation_make_no_difference_and_short_texts_count_as_a_whole():
    texts = [
        "Hello, world",
        "hello world!",
        "hello there",
        "!!!",
        "???",
        "",
        "One two. THREE four",
        "one two three four",
    ]
    assert near_duplicates(texts, 0.8).tolist() == [0, 0, 1, 2, 3, 4, 5, 5]
    assert near_duplicates([], 0.8).tolist() == []


def test_the_first_row_of_a_group_stays_and_the_log_counts_exact_and_near_duplicates(varied, caplog):
    near = varied[0] + " and one word more"
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "text": [varied[0], varied[0], near, "something else entirely"]})
    with caplog.at_level("INFO"):
        assert deduplicate(table, table["text"], 0.8)["id"].tolist() == ["a", "d"]
    assert "4 rows: 1 exact and 1 near duplicates dropped, 2 left" in caplog.text


def texts(rows, prefix="row"):
    return pd.Series([f"{prefix} {n} and {n * n}" for n in range(rows)])


def drawn(table, params=PARAMS, **more):
    return split(table, text_hashes(table["text"]), params, text=table["text"], **more)["split"]


def test_shares_hold_on_average_for_every_label_and_the_seed_decides():
    table = pd.DataFrame({"text": texts(4_000), "label": ["ham"] * 3_200 + ["spam"] * 800})
    shared = drawn(table, label="label")
    shares = pd.crosstab(table["label"], shared, normalize="index")
    assert shares["validation"].tolist() == pytest.approx([0.15, 0.15], abs=0.025)
    assert shares["test"].tolist() == pytest.approx([0.2, 0.2], abs=0.025)
    assert shared.equals(drawn(table, label="label"))
    other = drawn(table, PARAMS.model_copy(update={"seed": 2}), label="label")
    assert (other != shared).mean() == pytest.approx(1 - (0.65**2 + 0.15**2 + 0.2**2), abs=0.03)


def test_no_row_moves_when_others_come_change_or_go():
    """As mails go through the stage: near duplicates and what quotes another split are left out, and nothing moves."""
    generator = np.random.default_rng(5)
    lines = [random_text(generator, 9) for _ in range(130)]
    subjects = [f"{random_text(generator, 2)}" for _ in range(100)]

    def mail(number):
        body = "\n".join(lines[n] for n in generator.integers(130, size=generator.integers(1, 5)))
        subject = generator.choice(["", "Re: ", "[list] Re: "]) + subjects[generator.integers(100)]
        return {"id": number, "source": "real" if number % 9 else "made", "subject": subject, "body": body} | {
            "label": ("ham", "spam")[number % 2]
        }

    def splits(table):
        table = table.assign(group=thread(table))
        kept = deduplicate(table, row_text(table), 0.8)
        shared = split(kept, text_hashes(kept["group"]), params, label="label", text=row_text(kept))
        return without_known_lines(shared, shared["body"]).set_index("id")["split"]

    params = PARAMS.model_copy(update={"train_only": ("made",)})
    table = pd.DataFrame([mail(n) for n in range(190)])
    table = pd.concat([table, table[:10].assign(id=range(190, 200))], ignore_index=True)
    with recorded() as record:
        before = splits(table)
    assert set(record.counts()) == {"near_duplicates", "train_only", "long_lines"}
    for number in range(200, 204):
        place = int(generator.integers(200))
        new = pd.DataFrame([mail(number)])
        added = pd.concat([table[:place], new, table[place:]], ignore_index=True)
        changed = pd.concat([table[:place], new.assign(id=place), table[place + 1 :]], ignore_index=True)
        for other in (added, changed, table.drop(index=place)):
            after = splits(other)
            both = before.index.intersection(after.index).difference([place])
            assert len(both) > 0.95 * len(before)
            assert after[both].equals(before[both])


def test_groups_stay_whole():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"text": [f"group {n}" for n in generator.integers(400, size=2_000)]})
    shared = drawn(table)
    assert shared.groupby(table["text"]).nunique().max() == 1
    assert shared.value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.04)


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_overlap_finds_all_that_comparing_every_pair_finds(varied, threshold):
    table = pd.DataFrame({"text": [*varied, "", "!!", "one two", "One two."], "split": "train"})
    table["split"] = np.random.default_rng(0).choice(["train", "validation", "test"], len(table))
    left, right = (table[table["split"].isin(names)]["text"].tolist() for names in (["test"], ["train", "validation"]))
    found = len(np.unique(near_pairs(left, right, threshold)[:, 0]))
    left, right = (table[table["split"] == name]["text"].tolist() for name in ("validation", "train"))
    found += len(np.unique(near_pairs(left, right, threshold)[:, 0]))
    assert overlap(table, table["text"], threshold) == found > 0


def test_rows_that_begin_alike_are_not_all_compared_with_each_other(monkeypatch):
    generator, compared = np.random.default_rng(0), []
    monkeypatch.setattr("tasks.data.splits.same", lambda *pair: compared.append(pair) or same(*pair))
    begin = "please answer the question below in one short sentence "
    table = pd.DataFrame({"text": [begin + random_text(generator, 20) for _ in range(900)]})
    table = table.assign(split=["train", "validation", "test"] * 300)
    table.loc[1, "text"] = table["text"][0] + " now"
    assert overlap(table, table["text"], 0.8) == 1
    assert len(compared) < 50  # of 270,000 pairs


def test_pairs_of_two_tables_are_those_of_the_exact_similarity(varied, monkeypatch):
    monkeypatch.setattr("tasks.data.shingles.BLOCK", 7)
    left, right = varied[:40], varied[20:90]
    expected = [[n, m] for n in range(40) for m in range(70) if jaccard(left[n], right[m]) >= 0.8]
    assert len(expected) > 20
    assert sorted(near_pairs(left, right, 0.8).tolist()) == expected
    assert near_pairs([], right, 0.8).shape == near_pairs(left, [], 0.8).shape == (0, 2)


def test_no_near_duplicate_straddles_the_splits_of_a_deduplicated_table(varied):
    table = pd.DataFrame({"text": varied})
    assert overlap(table.assign(split=drawn(table)), table["text"], 0.8) > 0
    table = deduplicate(table, table["text"], 0.8)
    assert overlap(table.assign(split=drawn(table)), table["text"], 0.8) == 0


LITTLE = Split(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rows", [3, 5, 40])
def test_a_split_that_would_have_no_row_takes_the_nearest(rows, seed):
    table = pd.DataFrame({"text": texts(rows)})
    shared = drawn(table, LITTLE.model_copy(update={"seed": seed}))
    assert shared.value_counts()[["validation", "test"]].between(1, 3).all()
    more = drawn(pd.DataFrame({"text": texts(rows + 1)}), LITTLE.model_copy(update={"seed": seed}))
    assert (more[:rows] != shared).sum() <= 2


@pytest.mark.parametrize("seed", range(5))
def test_of_three_rows_of_a_label_every_split_has_one(seed):
    table = pd.DataFrame({"text": texts(300), "label": ["ham"] * 297 + ["spam"] * 3})
    shared = drawn(table, PARAMS.model_copy(update={"seed": seed}), label="label")
    assert shared[297:].value_counts().to_dict() == {"test": 1, "train": 1, "validation": 1}


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_rows_for_three_splits_are_an_error(rows):
    with pytest.raises(UserError, match=rf"^{rows} rows or groups .* bring more"):
        drawn(pd.DataFrame({"text": texts(rows)}))


def test_rows_that_are_for_learning_alone_go_to_train_move_no_other_and_keep_their_groups_out_of_the_test():
    real = pd.DataFrame({"text": texts(300), "source": "real"})
    written = pd.DataFrame({"text": texts(150), "source": "written/ham"})
    both = pd.concat([real, written], ignore_index=True)
    before = drawn(real)
    params = PARAMS.model_copy(update={"train_only": ("written/*",)})
    with recorded() as record:
        after = drawn(both, params)
    assert set(after[300:]) == {"train"}
    lost = before.index.difference(after.index)
    assert lost.tolist() == before.index[:150][before[:150] != "train"].tolist()
    assert after.drop(both.index[300:]).equals(before.drop(lost))
    assert record.quarantine()["text"].tolist() == real["text"][lost].tolist()
    assert set(record.quarantine()["reason"]) == {"its group has rows of a source that is learned from only"}


def test_a_glob_of_train_only_that_fits_no_source_is_named_with_the_sources():
    table = pd.DataFrame({"source": ["real/a", "real/b", "real/a"]})
    params = PARAMS.model_copy(update={"train_only": ("real/*", "writen/*")})
    with pytest.raises(UserError, match=r"^train_only: 'writen/\*' fits no source; sources are real/a, real/b$"):
        check_train_only(table, params)
    many = pd.DataFrame({"source": [f"s{n}" for n in range(30)]})
    with pytest.raises(UserError, match=r"sources are s0, .*, s9, …$"):
        check_train_only(many, params)
    check_train_only(table, PARAMS)


def test_train_only_where_rows_have_no_source_is_an_error():
    with pytest.raises(UserError, match=r"^train_only: the rows of this dataset have no column `source`"):
        check_train_only(pd.DataFrame({"text": ["a"]}), PARAMS.model_copy(update={"train_only": ("a",)}))
