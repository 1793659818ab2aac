"""How well the guard tells what to stop, beside the baseline that a user would pick instead."""

from tasks.measures.description import Evaluation
from tasks.measures.labels.measure import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=measure)
