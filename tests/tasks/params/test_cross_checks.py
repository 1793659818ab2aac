"""Mistakes between the blocks of params.yaml are all reported at once, before anything loads."""

import subprocess
import sys
from pathlib import Path

import pytest
from params_files import write_params
from projects import ROOT

from tasks.params.load import check_outline

CLASSIFIER, ASSISTANT = "applications.classifier", "applications.assistant"
LABELS = "datasets.emails.preprocess.labels"
THREE = f"{LABELS}: work, private, ads"
OF_TWO, OF_OTHERS = f"measured only with two labels ({THREE})", f"measured only for a label among {THREE}"
CIRCLE = "a model can't start from itself"
BASES = "name foundation or published"
CASES = {  # what is changed, and each error as key and reason
    "three labels": (
        {
            LABELS: ["work", "private", "ads"],
            f"{CLASSIFIER}.review.no_loss": ["f1", "everyday_ham", "everyday_spam", "everyday_balanced_accuracy"],
        },
        [
            (f"{CLASSIFIER}.train.passes", f"'ham' is not among {THREE}; name one, or null"),
            (f"{CLASSIFIER}.review.at_least", f"evasion_worst: {OF_TWO}; delete it"),
            (f"{CLASSIFIER}.review.no_loss", f"everyday_ham, everyday_spam: {OF_OTHERS}; delete it"),
        ],
    ),
    "three labels of which none passes": (
        {
            LABELS: ["ham", "spam", "ads"],
            f"{CLASSIFIER}.train.passes": None,
            f"{CLASSIFIER}.review": {"at_most": {"false_positive_rate": 0.03}},
        },
        [
            (f"{CLASSIFIER}.review.at_most", "false_positive_rate: measured only where a label passes; delete it"),
        ],
    ),
    "a dataset without labels": (
        {f"{CLASSIFIER}.dataset": "instructions"},
        [
            (
                f"{CLASSIFIER}.dataset",
                "instructions has no `labels` under preprocess, and a classifier learns labels, as from emails",
            )
        ],
    ),
    "mails instead of instructions": (
        {f"{ASSISTANT}.dataset": "emails"},
        [
            (
                f"{ASSISTANT}.dataset",
                "emails holds mails with labels, and an assistant learns instructions with answers",
            )
        ],
    ),
    "mails instead of text": (
        {"foundation.dataset": "emails"},
        [
            (
                "foundation.dataset",
                "emails has no `tokenizer` under preprocess, and a foundation learns text, as from corpus",
            )
        ],
    ),
    "another tokenizer than that of the weights": (
        {"foundation.train.init_from": "gpt2-124m", "datasets.corpus.preprocess.tokenizer": "smollm2-135m"},
        [
            (
                "foundation.train.init_from",
                "gpt2-124m needs its own tokenizer, and datasets.corpus.preprocess.tokenizer is smollm2-135m; "
                "set that to gpt2-124m",
            )
        ],
    ),
    "a foundation that is too small": (
        {f"{CLASSIFIER}.base": "foundation", "foundation.train.context_length": 128},
        [
            (f"{CLASSIFIER}.train.layers", "8 is more than foundation.train.n_layer, 3"),
            (f"{CLASSIFIER}.train.max_tokens", "160 is more than foundation.train.context_length, 128"),
        ],
    ),
    "a circle of bases": (
        {f"{CLASSIFIER}.base": "assistant", f"{ASSISTANT}.base": "classifier"},
        [
            (f"{CLASSIFIER}.base", f"{CIRCLE} (classifier -> assistant -> classifier); {BASES}"),
            (f"{ASSISTANT}.base", f"{CIRCLE} (assistant -> classifier -> assistant); {BASES}"),
        ],
    ),
    "gates on metrics that nothing measures": (
        {f"{ASSISTANT}.review.no_loss": ["exact_mach", "zeal"], "smoke.bounds.classifier.at_least": {"accuracies": 1}},
        [
            (f"{ASSISTANT}.review.no_loss", "no evaluation writes 'exact_mach'; did you mean exact_match?"),
            (
                f"{ASSISTANT}.review.no_loss",
                "no evaluation writes 'zeal'; delete the gate, or list a new metric in "
                "tasks/applications/assistant/card.md",
            ),
            ("smoke.bounds.classifier.at_least", "no evaluation writes 'accuracies'; did you mean accuracy?"),
        ],
    ),
    "mistakes of many kinds": (
        {
            "published": "smollm3",
            f"{ASSISTANT}.base": "publishd",
            f"{ASSISTANT}.train.twice": ["general-answer/*"],
            "datasets.emails.preprocess.train_only": ["everyday-mial/*"],
        },
        [
            (
                "datasets.emails.preprocess.train_only",
                "'everyday-mial/*' fits no source; they are datasets-spam-assassin/, everyday-mail/",
            ),
            (
                "published",
                "'smollm3' is not one of gpt2-124m, gpt2-355m, gpt2-774m, gpt2-1558m, smollm2-135m, no "
                "hf:OWNER/NAME@COMMIT, and no folder or .gguf file here",
            ),
            (f"{ASSISTANT}.base", "'publishd' is not one of foundation, classifier, assistant, guard, published"),
            (
                f"{ASSISTANT}.train.twice",
                "'general-answer/*' fits no source; they are examples/, first-words/, "
                "general-answers/, helping-answers/, form-answers/",
            ),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_outline_names_all_mistakes_between_blocks(tmp_path: Path, case: str) -> None:
    changes, mistakes = CASES[case]
    path = write_params(tmp_path, changes)
    with pytest.raises(ValueError) as caught:
        check_outline(path)
    assert str(caught.value).splitlines() == [f"{path}: {key}: {reason}" for key, reason in mistakes]


def test_outline_imports_no_library_of_models_or_engines() -> None:
    code = "import sys; from tasks.params.load import check_outline; check_outline(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "pandas", "prefect", "mlflow", "dvc"} & {*done.stdout.split()}
