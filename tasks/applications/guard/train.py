"""The guard: what an assistant should answer, decline, or meet with help."""

from functools import partial

from tasks.training.description import Training
from tasks.training.labelled import TrainClassifier, prepare_labelled, show_labelled

prepare = partial(prepare_labelled, units="requests")

TRAINING = Training(objective="classifier", train=TrainClassifier, prepare=prepare, show=show_labelled)
