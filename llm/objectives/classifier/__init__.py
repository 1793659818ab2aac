"""The classifier: a GPT and n-grams, two views of a text, and one head over both, decide among labels.

`objective` fine-tunes the GPT with a head of its own. Afterwards the head over both views is fitted to the optimum, as
a support vector machine (llm/objectives/classifier/fit.py). It can be fitted without a fine-tune, too.

With a reply to some of its labels it is a guard, which reads what people ask before an assistant answers.
"""

from llm.objectives.classifier.config import UNSURE, ClassifierConfig
from llm.objectives.classifier.fit import LabelledTexts, f1_score, read_texts
from llm.objectives.classifier.loss import objective
from llm.objectives.classifier.model import Classifier, build, probabilities
from llm.objectives.classifier.serve import guard_replies, interface, serve
from llm.objectives.classifier.texts import email_text

__all__ = [
    "UNSURE",
    "Classifier",
    "ClassifierConfig",
    "LabelledTexts",
    "build",
    "email_text",
    "f1_score",
    "guard_replies",
    "interface",
    "objective",
    "probabilities",
    "read_texts",
    "serve",
]
