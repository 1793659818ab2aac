"""How good the answers of the preference-tuned assistant are: measured as the assistant's, which is its baseline."""

from tasks.applications import Evaluation
from tasks.evaluation.assistant.answers import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=measure)
