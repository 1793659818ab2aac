"""The classifier: a GPT and n-grams, two views of a text, and one head over both, decide among labels.

loss.py fine-tunes the GPT with a head of its own. Afterwards fit.py fits the head over both views as a support vector
machine. It can be fitted without a fine-tune, too. Neither is needed to serve a classifier.

With a reply to some of its labels it is a guard, which reads what people ask before an assistant answers.
"""

from llm.objectives.classifier.config import UNSURE, ClassifierConfig
from llm.objectives.classifier.model import Classifier, build, probabilities
from llm.objectives.classifier.serve import guard_replies, interface, serve
from llm.objectives.classifier.texts import email_text

__all__ = [
    "UNSURE",
    "Classifier",
    "ClassifierConfig",
    "build",
    "email_text",
    "guard_replies",
    "interface",
    "probabilities",
    "serve",
]
