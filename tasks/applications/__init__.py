"""The models that people use: one folder each, with the same files.

- `train.py` says how it is prepared for training: a `TRAINING`;
- `measure.py` measures it on the test split, next to a baseline, and says how two versions of it are compared: an
  `EVALUATION`. It stands apart from training, so that a new metric trains nothing again;
- `card.md` says in words what it is for, what it is not for, which figures matter, and its limits.

An application is such a folder, a block under `applications` in params.yaml, and a test. Only if it learns something
new, it also needs a folder in llm/objectives.
"""
