"""Measures: one score table for each evaluation, and one function from it to metrics.

An evaluation (tasks/applications/<name>/measure.py) has its model and a baseline answer the test rows, and scores each
answer: `exact`, `rouge_l`, `right`, `bits`. These scores are a table, `scores.parquet` in its evidence, with a row for
each test row and measure:

- `part` and `id` name the test row: `part` is `test`, or a file of questions such as `everyday`;
- `measure`, and its value for each contender: `ours`, `baseline`, and `nearest` where an evaluation has a third;
- `question`, `expected`, `answer`, `baseline_answer`: texts for people;
- columns that say which slice the row is in, such as `kind`, `source` and `words`.

A metric is a statistic of measures over some of the rows. `figures` computes every metric of a table with its interval,
the baseline's value, and the lead over the baseline, paired by row. An evaluation logs them; a review puts the champion
in the baseline's place and computes the same. So no metric has two formulas, and no file is read back but the table.
"""
