"""How good the classifier is, beside the baseline that a user would pick instead."""

from functools import partial

from tasks.applications.classifier.evasions import measure_evasions
from tasks.measures.description import Evaluation
from tasks.measures.labels.measure import Evaluate, measure

EVALUATION = Evaluation(params=Evaluate, measure=partial(measure, further=measure_evasions))
