import numpy as np
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.splits import Split, check_train_only, deduplicate, near_duplicates, near_pairs, overlap, split

PARAMS = Split(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)


def random_text(generator, words=100):
    return " ".join(f"word{n}" for n in generator.integers(5_000, size=words))


def shingles(text):
    words = text.lower().split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def jaccard(left, right):
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


@pytest.fixture(scope="module")
def varied():
    """300 texts in 100 families, whose members differ from the first by zero to seven changed words."""
    generator, texts = np.random.default_rng(3), []
    for _ in range(100):
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
    assert 100 < groups.max() + 1 < 300


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


def test_a_chain_of_near_duplicates_is_one_group():
    words = [f"w{n}" for n in range(100)]
    chain = [" ".join(words[start : start + 60]) for start in range(0, 40, 5)]
    assert jaccard(chain[0], chain[-1]) < 0.5 < jaccard(chain[0], chain[1])
    assert set(near_duplicates(chain, 0.8)) == {0}


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


def test_shares_hold_in_every_stratum_and_the_seed_decides():
    table = pd.DataFrame({"label": ["ham"] * 800 + ["spam"] * 200})
    shared = split(table, PARAMS, stratify=("label",))
    counts = pd.crosstab(shared["label"], shared["split"])
    assert counts.loc["ham"].to_dict() == {"test": 160, "train": 520, "validation": 120}
    assert counts.loc["spam"].to_dict() == {"test": 40, "train": 130, "validation": 30}
    assert shared.equals(split(table, PARAMS, stratify=("label",)))
    other = split(table, PARAMS.model_copy(update={"seed": 2}), stratify=("label",))
    assert (other["split"] != shared["split"]).mean() > 0.3


def test_groups_stay_whole_and_shares_hold_nearly():
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"word": generator.integers(400, size=2_000), "kind": "x"})
    shared = split(table, PARAMS, groups=table["word"], stratify=("kind",))
    assert shared.groupby("word")["split"].nunique().max() == 1
    shares = shared["split"].value_counts(normalize=True)
    assert shares["validation"] == pytest.approx(0.15, abs=0.01)
    assert shares["test"] == pytest.approx(0.2, abs=0.01)


def test_a_group_larger_than_a_splits_share_goes_to_train():
    groups = pd.Series([0] * 60 + list(range(1, 41)))
    for seed in range(10):
        shared = split(pd.DataFrame(index=range(100)), PARAMS.model_copy(update={"seed": seed}), groups=groups)
        assert set(shared["split"][:60]) == {"train"}
        assert shared["split"].value_counts().to_dict() == {"train": 65, "test": 20, "validation": 15}


def test_overlap_counts_rows_with_a_near_duplicate_in_an_earlier_split(varied):
    base, near = varied[0], varied[0] + " and one word more"
    table = pd.DataFrame(
        [(base, "train"), (near, "test"), (varied[30], "validation"), (varied[30], "test"), (varied[60], "test")],
        columns=["text", "split"],
    )
    assert overlap(table, table["text"], 0.8) == 2
    assert overlap(table, table["text"], 1.0) == 1
    assert overlap(table[table["split"] == "train"], table["text"][:1], 0.8) == 0


def test_pairs_of_two_tables_are_those_of_the_exact_similarity(varied, monkeypatch):
    monkeypatch.setattr("tasks.data.shingles.BLOCK", 7)
    left, right = varied[:40], varied[20:90]
    expected = [[n, m] for n in range(40) for m in range(70) if jaccard(left[n], right[m]) >= 0.8]
    assert len(expected) > 20
    assert sorted(near_pairs(left, right, 0.8).tolist()) == expected
    assert near_pairs([], right, 0.8).shape == near_pairs(left, [], 0.8).shape == (0, 2)


def test_no_near_duplicate_straddles_the_splits_of_a_deduplicated_table(varied):
    table = pd.DataFrame({"text": varied})
    assert overlap(split(table, PARAMS), table["text"], 0.8) > 0
    table = deduplicate(table, table["text"], 0.8)
    assert overlap(split(table, PARAMS), table["text"], 0.8) == 0


def test_two_thousand_long_texts_are_split_without_an_overlap():
    generator = np.random.default_rng(1)
    table = pd.DataFrame({"text": [random_text(generator, 300) for _ in range(2_000)]})
    shared = split(deduplicate(table, table["text"], 0.8), PARAMS)
    assert overlap(shared, shared["text"], 0.8) == 0


def test_rows_of_a_source_that_is_for_learning_alone_go_to_train_and_change_no_other_split():
    table = pd.DataFrame({"text": [f"row {n}" for n in range(100)], "source": ["real"] * 100, "label": list("ab") * 50})
    written = pd.DataFrame({"text": [f"made {n}" for n in range(40)], "source": "written/ham", "label": "a"})
    both = pd.concat([table, written], ignore_index=True)
    params = Split(seed=1, validation=0.1, test=0.2, near_duplicate=0.8, train_only=("written/*",))
    found = split(both, params, stratify=("label",))["split"]
    assert set(found[100:]) == {"train"}
    alone = split(table, params.model_copy(update={"train_only": ()}), stratify=("label",))["split"]
    assert found[:100].tolist() == alone.tolist()


LITTLE = Split(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


@pytest.mark.parametrize("seed", range(5))
def test_a_stratum_of_ten_rows_or_more_has_some_in_every_split(seed):
    table = pd.DataFrame({"source": ["small"] * 10 + ["middle"] * 24 + ["large"] * 500})
    shared = split(table, LITTLE.model_copy(update={"seed": seed}), stratify=("source",))
    counts = pd.crosstab(shared["source"], shared["split"])
    assert counts.loc["small"].to_dict() == {"test": 1, "train": 8, "validation": 1}
    assert counts.loc["middle"].to_dict() == {"test": 1, "train": 22, "validation": 1}
    assert counts.loc["large"].to_dict() == {"test": 10, "train": 480, "validation": 10}


def test_strata_of_fewer_rows_are_shared_out_together():
    table = pd.DataFrame({"source": [f"book {n // 5}" for n in range(100)]})
    counts = split(table, LITTLE, stratify=("source",))["split"].value_counts()
    assert counts.to_dict() == {"train": 96, "validation": 2, "test": 2}


@pytest.mark.parametrize("seed", range(5))
def test_where_every_stratum_must_be_everywhere_three_rows_of_one_are_one_a_split(seed):
    table = pd.DataFrame({"label": ["ham"] * 297 + ["spam"] * 3})
    shared = split(table, PARAMS.model_copy(update={"seed": seed}), stratify=("label",), few=3)
    assert pd.crosstab(shared["label"], shared["split"]).loc["spam"].to_dict() == {
        "test": 1,
        "train": 1,
        "validation": 1,
    }


def test_a_group_belongs_to_what_most_of_it_is():
    """A list's one mail among eighty newsletters makes none of them a list's; they are too many for test."""
    table = pd.DataFrame({"label": "ham", "source": ["list"] * 400 + ["newsletters"] * 200, "group": range(600)})
    table.loc[399:480, "group"] = 399
    shared = split(table, PARAMS, groups=table["group"], stratify=("label", "source"))
    assert set(shared.loc[399:480, "split"]) == {"train"}
    newsletters = shared[shared["source"] == "newsletters"]["split"].value_counts()
    assert (newsletters["validation"], newsletters["test"]) == (30, 40)


def test_the_sources_of_a_label_are_shared_out_alike_and_small_ones_together():
    table = pd.DataFrame({"label": ["ham"] * 440 + ["spam"] * 100, "source": "list"})
    table.loc[400:439, "source"] = "newsletters"
    table.loc[440:449, "source"] = [f"s{n}" for n in range(10)]
    shared = split(table, PARAMS, stratify=("label", "source"), few=3)
    counts = shared.groupby(["label", "source"])["split"].value_counts(normalize=True).unstack(fill_value=0)
    for each in (("ham", "list"), ("ham", "newsletters"), ("spam", "list")):
        assert counts.loc[each, "validation"] == pytest.approx(PARAMS.validation, abs=0.03)
        assert counts.loc[each, "test"] == pytest.approx(PARAMS.test, abs=0.03)
    small = shared[shared["source"].str.startswith("s")]["split"].value_counts()
    assert small.to_dict() == {"train": 7, "test": 2, "validation": 1}


@pytest.mark.parametrize("rows", [3, 5, 9])
def test_of_few_rows_every_split_has_one(rows):
    counts = split(pd.DataFrame({"source": [f"s{n % 2}" for n in range(rows)]}), LITTLE, stratify=("source",))["split"]
    assert counts.value_counts().to_dict() == {"train": rows - 2, "validation": 1, "test": 1}


def test_a_row_counts_by_its_weight():
    weights = pd.Series([1] * 900 + [9] * 100)  # half of the weight is in a tenth of the rows
    for seed in range(10):
        params = PARAMS.model_copy(update={"seed": seed})
        shared = split(pd.DataFrame(index=range(1_000)), params, weights=weights)["split"]
        shares = weights.groupby(shared).sum() / weights.sum()
        assert shares["validation"] == pytest.approx(0.15, abs=0.005)
        assert shares["test"] == pytest.approx(0.2, abs=0.005)


def test_a_row_much_heavier_than_the_others_is_learned_from():
    weights = pd.Series([10] * 20 + [200])
    for seed in range(10):
        shared = split(pd.DataFrame(index=range(21)), LITTLE.model_copy(update={"seed": seed}), weights=weights)
        assert shared["split"][20] == "train"
        assert shared["split"].value_counts().to_dict() == {"train": 19, "validation": 1, "test": 1}


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_rows_for_a_split_are_an_error_that_says_what_to_change(rows):
    message = rf"^{rows} rows or groups .* validation 0\.02 and test 0\.02 there is none for validation; bring more"
    with pytest.raises(UserError, match=message):
        split(pd.DataFrame(index=range(rows)), LITTLE)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_share_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name}\n  Input should be greater than 0"):
        Split(**PARAMS.model_dump() | {name: 0.0})


def test_a_group_with_a_row_that_is_for_learning_alone_goes_to_train_whole():
    table = pd.DataFrame({"source": ["real"] * 100 + ["written"] * 50, "entity": [*range(100), *range(50)]})
    params = Split(seed=1, validation=0.2, test=0.2, near_duplicate=0.8, train_only=("written",))
    shared = split(table, params, groups=table["entity"])
    assert set(shared["split"][table["entity"] < 50]) == {"train"}
    assert shared["split"][50:100].value_counts().to_dict() == {"train": 30, "validation": 10, "test": 10}


def test_weights_of_rows_that_are_for_learning_alone_count_in_no_share():
    table = pd.DataFrame({"source": ["written"] * 50 + ["real"] * 100})
    params = Split(seed=1, validation=0.2, test=0.2, near_duplicate=0.8, train_only=("written",))
    shared = split(table, params, weights=pd.Series([1_000] * 50 + [1] * 100))
    assert shared["split"][50:].value_counts().to_dict() == {"train": 60, "validation": 20, "test": 20}


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
