"""One evaluation: the score table into the evidence, and the metrics."""

from tasks.measures.description import Evaluation, Subject
from tasks.measures.metrics import logged
from tasks.measures.scores import write_scores


def measure_and_write(evaluation: Evaluation, subject: Subject) -> dict[str, float]:
    """Measure a model; returns its metrics, and leaves the score table and files for people in the evidence."""
    measured = evaluation.measure(subject)
    write_scores(measured.scores, subject.evidence)
    return {**logged(evaluation.metrics(measured.scores), measured.scores), **measured.further}
