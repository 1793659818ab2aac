"""Measure the preference-tuned assistant as the assistant is measured, which is its baseline."""

from tasks.applications import Evaluation
from tasks.evaluation.assistant.answers import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=measure)
