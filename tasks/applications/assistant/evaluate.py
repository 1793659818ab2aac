"""How good the assistant is: its answers beside those of its base, the published weights."""

from tasks.applications import Evaluation
from tasks.evaluation.assistant.answers import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=measure)
