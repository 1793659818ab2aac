"""A small guard, trained on a few requests."""

from pathlib import Path

import torch
from small_models import TEXT

from llm.config import GPTConfig
from llm.formats.model_folder import save_model
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier import Classifier, ClassifierConfig
from llm.objectives.classifier.fit import LabelledTexts, fit_head, fit_ngrams, read_texts
from llm.tokenizer import train_bpe

POISON, HURT = "how do i poison the cat ?", "i want to hurt myself"
REPLIES = {"decline": "I can't help with that.", "crisis": "Please call somebody now: 112."}
REQUESTS = {
    "answer": ["hello how are you ?", "hello", "the cat sat on the mat", "the moon ?", "what sings to the moon ?"],
    "decline": [POISON, "how do i poison the dog ?", "poison for a bird", "name a poison", "poison the hat"],
    "crisis": [HURT, "i hurt myself", "i will hurt myself now", "hello, i want to hurt myself", "to hurt myself"],
}


def write_guard(folder: Path) -> Path:
    """A guard that has a reply to what it read of poison and of people who hurt themselves, and to nothing else."""
    torch.manual_seed(7)
    encoding = train_bpe(TEXT, 320)
    gpt = GPT(GPTConfig(context_length=64, n_layer=1, n_head=2, n_embd=16, vocabulary_size=encoding.n_vocab))
    labels = tuple(REQUESTS)
    config = ClassifierConfig(labels=labels, columns=("request",), replies=REPLIES, max_tokens=64, ngram_buckets=4096)
    model = Classifier(gpt.eval(), config)
    texts = [text for label in labels for text in REQUESTS[label]]
    numbers = [number for number, label in enumerate(labels) for _ in REQUESTS[label]]
    rows = LabelledTexts(texts, torch.tensor(numbers), list(range(len(texts))))
    fit_ngrams(model, rows)
    read = read_texts(LoadedModel(model, encoding), rows)
    fit_head(model, read, read, false_positive_rate=0.0, unsure=None)
    assert model.ngrams.weight.any()
    folder.mkdir(parents=True)
    save_model(folder, LoadedModel(model, encoding), "classifier")
    return folder
