"""How well the guard tells what to stop, beside the baseline that a user would pick instead."""

from tasks.applications import Evaluation
from tasks.evaluation.classifier.measures import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=measure)
