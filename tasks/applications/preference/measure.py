"""Measure the preference-tuned assistant as the assistant is measured, which is its baseline."""

from tasks.applications.assistant.measure import Evaluate, measure
from tasks.measures.description import Evaluation

EVALUATION = Evaluation(params=Evaluate, measure=measure)
