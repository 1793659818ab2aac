"""The email classifier: spam or no spam."""

from functools import partial

from tasks.training.description import Training
from tasks.training.labelled import TrainClassifier, prepare_labelled, show_labelled

prepare = partial(prepare_labelled, units="emails")

TRAINING = Training(
    objective="classifier", train=TrainClassifier, prepare=prepare, show=show_labelled, cleaning="tasks.data.mail"
)
