"""How good the classifier is, beside the baseline that a user would pick instead."""

from functools import partial

from tasks.applications import Evaluation
from tasks.evaluation.classifier.evasions import measure_evasions
from tasks.evaluation.classifier.measures import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=partial(measure, further=measure_evasions))
