"""A language model from scratch: all of it, in the order in which one learns it.

    python llm/from_scratch.py BOOK.txt

reads a text, learns from it for about a minute, and writes text that looks like it. torch does the arithmetic; all else
stands here: byte-pair encoding, embeddings, attention, the GPT, its loss, the training loop and sampling. The classes
of llm/model have the same names and take these weights. docs/book explains each part.

Tensor names end in their shape: B texts in a batch, T positions, S positions that are looked at, H heads, D width of a
head, C width of the model, V tokens of the vocabulary.
"""

import math
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

# ---- 1. Text becomes numbers: byte-pair encoding

WORD = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")
"""Words, numbers and punctuation, each with the space before it. No token spans two of them."""
Pair = tuple[int, int]


def train_bpe(text: str, vocabulary_size: int) -> list[Pair]:
    """The merges of a vocabulary: again and again, the most frequent pair of neighbours becomes a new token.

    Token 0 to 255 are the bytes, token 256 is the first merge, and so on.
    """
    counts = Counter(WORD.findall(text))
    words = [list(word.encode()) for word in counts]
    times = list(counts.values())
    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += times[number]
            words_with[pair].add(number)
    merges: list[Pair] = []
    while len(merges) < vocabulary_size - 256:
        best = max(pair_counts, key=pair_counts.__getitem__, default=(0, 0))
        if not pair_counts[best]:  # every word is one token
            break
        merges.append(best)
        for number in words_with.pop(best):
            word = words[number]
            for pair in pairwise(word):
                pair_counts[pair] -= times[number]
            words[number] = merge(word, best, 255 + len(merges))
            for pair in pairwise(words[number]):
                pair_counts[pair] += times[number]
                words_with[pair].add(number)
        del pair_counts[best]
    return merges


def merge(word: list[int], pair: Pair, token: int) -> list[int]:
    """A word in which a pair of neighbours is one token."""
    merged: list[int] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(token)
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


class Tokenizer:
    """Text to tokens and back."""

    def __init__(self, merges: list[Pair]) -> None:
        self.rank = {pair: number for number, pair in enumerate(merges)}
        self.bytes_of = [bytes([byte]) for byte in range(256)]
        for first, second in merges:
            self.bytes_of.append(self.bytes_of[first] + self.bytes_of[second])
        self.known_words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        return [token for word in WORD.findall(text) for token in self.encode_word(word)]

    def encode_word(self, word: str) -> list[int]:
        """Replay the merges in the order in which they were learned."""
        if word not in self.known_words:
            tokens = list(word.encode())
            while pairs := set(pairwise(tokens)) & self.rank.keys():
                first = min(pairs, key=self.rank.__getitem__)
                tokens = merge(tokens, first, 256 + self.rank[first])
            self.known_words[word] = tokens
        return self.known_words[word]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens."""
        return b"".join(self.bytes_of[token] for token in tokens).decode(errors="replace")


# ---- 2. Numbers become vectors


@dataclass(frozen=True)
class Config:
    """The shape of a model."""

    vocabulary_size: int
    context_length: int = 64
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128


class Embedding(nn.Module):
    """A vector for each token, plus a vector for its position: without it, a text would be a bag of words."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary_size, config.n_embd)
        self.position = nn.Embedding(config.context_length, config.n_embd)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """BT to BTC."""
        positions_T = torch.arange(tokens_BT.shape[1])
        return self.token(tokens_BT) + self.position(positions_T)


# ---- 3. Attention: each token looks at those before it


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
    """Scores say how well a query fits each key; softmax makes them weights; the output is the weighted mean of values.

    A token may not see the future: there it would find the very token that it is to predict.
    """
    scores_BHTS = q_BHTD @ k_BHSD.transpose(-2, -1) / math.sqrt(q_BHTD.shape[-1])
    visible_TS = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool).tril()
    weights_BHTS = scores_BHTS.masked_fill(~visible_TS, -math.inf).softmax(dim=-1)
    return weights_BHTS @ v_BHSD


class Attention(nn.Module):
    """Several heads, each with queries, keys and values of its own; a last matrix mixes what they found."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.query_key_value = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.projection = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """BTC to BTC."""
        parts_BTHD = self.query_key_value(x_BTC).unflatten(-1, (3 * self.n_head, -1))
        q_BHTD, k_BHTD, v_BHTD = parts_BTHD.transpose(1, 2).chunk(3, dim=1)
        y_BHTD = attention(q_BHTD, k_BHTD, v_BHTD)
        return self.projection(y_BHTD.transpose(1, 2).flatten(2))


# ---- 4. The GPT: blocks of attention and an MLP


class MLP(nn.Module):
    """What a token computes alone: a wider layer, a bend, and back."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.expand = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.projection = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """BTC to BTC. GELU passes large values, and stops negative ones softly."""
        x_BTC = self.expand(x_BTC)
        gelu_BTC = 0.5 * x_BTC * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x_BTC + 0.044715 * x_BTC**3)))
        return self.projection(gelu_BTC)


class Block(nn.Module):
    """Attention and MLP, each on a normalised copy, each added to the stream that runs past them."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.n_embd)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """BTC to BTC."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        return x_BTC + self.mlp(self.mlp_norm(x_BTC))


class GPT(nn.Module):
    """Predicts the next token at every position."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd)
        self.output = nn.Linear(config.n_embd, config.vocabulary_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits BTV: row t says how likely each token is as number t + 1."""
        x_BTC = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self.output(self.norm(x_BTC))


# ---- 5. Training: predict, measure the surprise, move the weights


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """The mean surprise at the right tokens, -log softmax(logits)[target], in nats."""
    total_BT = logits_BTV.logsumexp(dim=-1)
    right_BT = logits_BTV.gather(-1, targets_BT[..., None])[..., 0]
    return (total_BT - right_BT).mean()


def draw_batch(tokens_N: Tensor, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Windows from anywhere in a text, and the same windows one token later: what each position is to predict."""
    starts_B1 = torch.randint(len(tokens_N) - length, (count, 1))
    windows_BT = tokens_N[starts_B1 + torch.arange(length + 1)]
    return windows_BT[:, :-1], windows_BT[:, 1:]


def optimizer_of(model: GPT) -> torch.optim.Optimizer:
    """AdamW. A row of a table moves only when its token occurs, so the tables take ten times the rate of the blocks."""
    tables = [weight for name, weight in model.named_parameters() if "blocks" not in name]
    groups = [{"params": model.blocks.parameters(), "lr": 0.001}, {"params": tables, "lr": 0.01}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0)


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step, from 1: first up, then nearly down to nothing: small steps settle."""
    return min(1.0, step / 20, 1.5 * (1 - (step - 1) / steps))


@torch.no_grad()
def evaluate(model: GPT, tokens_N: Tensor, windows: int = 160) -> float:
    """The loss on a text that nothing was learned from; always on the same windows, spread over it."""
    length = model.config.context_length
    starts_B = torch.linspace(0, len(tokens_N) - length - 1, windows).long()
    windows_BT = tokens_N[starts_B[:, None] + torch.arange(length + 1)]
    return cross_entropy(model(windows_BT[:, :-1]), windows_BT[:, 1:]).item()


def train(model: GPT, train_N: Tensor, held_out_N: Tensor, steps: int) -> list[tuple[int, float]]:
    """Train on a text in batches of 8 windows; return the loss curve on the held-out text."""
    optimizer = optimizer_of(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    curve: list[tuple[int, float]] = []
    for step in range(1, steps + 1):
        inputs_BT, targets_BT = draw_batch(train_N, 8, model.config.context_length)
        loss = cross_entropy(model(inputs_BT), targets_BT)
        loss.backward()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * rate_at(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        if step == 1 or step % max(1, steps // 10) == 0:
            held_out = evaluate(model, held_out_N)
            curve.append((step, held_out))
            bar = "#" * round(4 * held_out)
            losses = f"train {loss.item():5.2f}  held out {held_out:5.2f}"
            print(f"step {step:5}  {losses}  {bar}")
    return curve


# ---- 6. Writing: draw a token, append it, ask again


@torch.no_grad()
def generate(
    model: GPT, tokens: list[int], count: int, temperature: float = 0.8, top_k: int | None = None
) -> list[int]:
    """Continue tokens: below a temperature of 1 likely tokens grow likelier, near 0 only the likeliest is drawn.

    With `top_k` one of so many of the likeliest is drawn.
    """
    for _ in range(count):
        recent_1T = torch.tensor([tokens[-model.config.context_length :]])
        logits_V = model(recent_1T)[0, -1]
        if top_k is not None:
            least = logits_V.topk(top_k).values[-1]
            logits_V = logits_V.masked_fill(logits_V < least, -math.inf)
        probabilities_V = (logits_V / temperature).softmax(dim=-1)
        tokens = [*tokens, int(torch.multinomial(probabilities_V, 1))]
    return tokens


def main() -> None:
    """Learn from a file and write."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python llm/from_scratch.py FILE [STEPS]")
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    steps = int(sys.argv[2]) if len(sys.argv) == 3 else 1000
    torch.set_num_threads(1)  # two would wait for each other wherever another program is busy
    torch.manual_seed(0)
    began = time.monotonic()
    split = len(text) * 9 // 10
    tokenizer = Tokenizer(train_bpe(text[:split], vocabulary_size=2048))
    train_N = torch.tensor(tokenizer.encode(text[:split]))
    held_out_N = torch.tensor(tokenizer.encode(text[split:]))
    model = GPT(Config(vocabulary_size=len(tokenizer.bytes_of)))
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{len(train_N):,} tokens in {time.monotonic() - began:.0f} s; the model has {weights:,} weights")
    train(model, train_N, held_out_N, steps=steps)
    bits = evaluate(model, held_out_N, windows=640) / math.log(2) * len(held_out_N) / len(text[split:].encode())
    print(f"{bits:.2f} bits per byte of the held-out text, after {time.monotonic() - began:.0f} s")
    prompt = tokenizer.encode(text[split : split + 60])
    print(tokenizer.decode(generate(model, prompt, 120)))


if __name__ == "__main__":
    main()
