import hashlib
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.config import GPTConfig, LoRAConfig, TrainConfig
from llm.device import EAGER, IN_INT8, Compute, has_fast_bfloat16_registers
from llm.kernels.training import compiled
from llm.kernels.training.compiled import (
    WIDE_INT8,
    WORTH,
    WORTH_C,
    WORTH_INT8,
    can_learn_in_c,
    choose_blocks,
    compile_blocks,
    compiled_by,
    cpp_compiler,
    described,
)
from llm.kernels.training.int8 import LearnedInt8Linear, has_fast_int8, learn_in_int8, sums_are_exact
from llm.model.gpt import GPT
from llm.model.lora import LoRALinear, add_lora, multiply_in_int8
from llm.objectives.language_model import window_loss
from llm.training.checkpoint import Checkpoints
from llm.training.loop import Objective, train

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
LOW = Compute(torch.device("cpu"), torch.bfloat16, "a test", blocks="compiled by a test")
BY_C = replace(LOW, blocks=LOW.blocks + ", attention and loss in C" * torch.cpu._is_avx512_bf16_supported())
IN_8_BITS = replace(BY_C, blocks=BY_C.blocks + ", logits and products" + IN_INT8) if sums_are_exact() else BY_C
CONFIG = TrainConfig(seed=1, steps=20, batch_size=2, learning_rate=1e-2, evaluate_every=20, checkpoint_every=10)
LORA = LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand"))
needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="there is no C++ compiler")


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory):
    """What is compiled, for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp().parent / "compiled"))
        yield


def make(dropout: float = 0.1, steps: int = 20, lora: bool = True) -> tuple[GPT, Objective]:
    """A small model of Llama's form, with LoRA beside a frozen body or without it, and tokens to learn."""
    torch.manual_seed(0)
    shape = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "n_head": 1}
    gpt = GPT(GPTConfig(context_length=64, n_layer=2, n_embd=64, vocabulary_size=50, dropout=dropout, **shape))
    if lora:
        add_lora(gpt, LORA)
    tokens_NT = torch.randint(50, (steps, 2, 33))

    def loss(index: int) -> torch.Tensor:
        with LOW.autocast():
            return window_loss(gpt, tokens_NT[index % steps, :, :-1], tokens_NT[index % steps, :, 1:])

    return gpt, Objective(loss, lambda: {"validation_loss": loss(0).item()}, "validation_loss")


@pytest.mark.parametrize(
    ("share", "width", "filled", "said"),
    [
        (0.9, 64, 1.0, "it is short, 0.90 of 1 billion values pass through them"),
        (1.1, 64, 0.6, "lengths vary, and 40% of batches of one shape were padding"),
    ],
)
def test_blocks_stay_eager_where_the_compiler_would_not_be_earned_back(share, width, filled, said):
    gpt, _ = make()
    chosen = choose_blocks(gpt, CPU, int(share * WORTH / 2 / width), width, filled)
    assert (chosen.blocks, chosen.compiled) == (EAGER, False)
    assert chosen.blocks_reason.startswith(said)
    assert str(chosen).endswith(f"threads: a test; blocks eager: {chosen.blocks_reason}")


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_blocks_stay_eager_without_a_compiler(monkeypatch, command):
    gpt, _ = make()
    monkeypatch.setenv("CXX", command)
    cpp_compiler.cache_clear()
    try:
        chosen = choose_blocks(gpt, CPU, int(WORTH), 64)
    finally:
        cpp_compiler.cache_clear()
    assert not chosen.compiled
    assert chosen.blocks_reason.startswith("there is no C++ compiler with the headers of Python and OpenMP")


@needs_compiler
def test_the_choice_is_of_the_work_and_the_compiler_alone():
    gpt, _ = make()
    chosen = choose_blocks(gpt, CPU, int(WORTH / 128), 64)
    assert chosen.blocks.startswith(f"compiled by {cpp_compiler()}")
    assert chosen == choose_blocks(gpt, CPU, int(WORTH / 128), 64)


@needs_compiler
@pytest.mark.parametrize("lacking", ["flash", "loss", "muon", None])
def test_attention_loss_and_muon_are_computed_in_c_where_that_is_fast_and_can_be_built(monkeypatch, lacking):
    if lacking:
        monkeypatch.setattr(compiled, f"load_{lacking}", lambda: None)
    gpt, _ = make(dropout=0.0, lora=False)
    chosen = [choose_blocks(gpt, compute, int(WORTH / 128), 64, muon=True) for compute in (LOW, CPU)]
    in_c = lacking is None and has_fast_bfloat16_registers(LOW.device)
    assert [each.in_c for each in chosen] == [["attention", "loss", "Muon"] if in_c else [], []]
    said = ", attention and loss and Muon in C"
    assert [each.blocks for each in chosen] == [compiled_by(cpp_compiler()) + said * bool(each.in_c) for each in chosen]


@pytest.mark.parametrize(
    ("width", "heads", "dropout", "expected"),
    [
        (128, 2, 0.0, ["attention", "loss"]),
        (128, 4, 0.0, ["loss"]),
        (128, 2, 0.1, ["loss"]),
        (192, 3, 0.0, ["attention", "loss"]),
        (96, 1, 0.0, []),
    ],
)
def test_a_width_or_dropout_that_c_lacks_is_left_to_torch_and_so_is_the_loss_of_a_classifier(
    width, heads, dropout, expected
):
    gpt = GPT(GPTConfig(context_length=8, n_layer=1, n_embd=width, n_head=heads, vocabulary_size=9, dropout=dropout))
    assert compiled._parts_in_c(gpt, muon=False) == expected
    assert compiled._parts_in_c(gpt, muon=True) == expected + ["Muon"] * (width % 64 == 0)
    add_lora(lora := deepcopy(gpt), LoRAConfig(rank=4, alpha=8, targets=("expand",)))
    assert compiled._parts_in_c(lora, muon=True) == expected  # whose matrices are thin
    assert compiled._parts_in_c(torch.nn.Sequential(gpt), muon=False) == [part for part in expected if part != "loss"]
    for parts in (expected, []):
        compiled._learn_in_c(gpt, replace(LOW, blocks=described(EAGER, parts, [])))
        assert (gpt.blocks[0].attention.in_c, gpt.loss_in_c) == ("attention" in parts, "loss" in parts)


def test_a_short_training_takes_what_is_in_c_alone_and_the_shortest_nothing():
    gpt, goal = make(dropout=0.0, lora=False)
    how = {"from_scratch": True, "muon": True}
    short, shortest = (choose_blocks(gpt, LOW, int(worth / 128) + 1, 64, **how) for worth in (WORTH_C, WORTH_C / 2))
    assert (short.compiled, shortest.compiled) == (False, False)
    fast = can_learn_in_c(LOW)
    assert short.in_c == (["attention", "loss", "Muon"] if fast else [])
    assert (short.logits_in_int8, short.in_int8) == (fast and has_fast_int8(LOW.device), False)
    assert shortest.blocks == EAGER
    assert compile_blocks(gpt, goal, short) == short
    assert (gpt.blocks[0].attention.in_c, gpt.loss_in_c, gpt.logits_in_int8) == (fast, fast, short.logits_in_int8)


@needs_compiler
def test_a_still_longer_training_in_bfloat16_multiplies_what_lora_froze_in_8_bits_where_that_is_fast():
    gpt, _ = make()
    enough = int(WORTH_INT8 / 128) + 1
    chosen = [choose_blocks(gpt, compute, tokens, 64).in_int8 for compute, tokens in ((LOW, enough), (CPU, enough))]
    assert chosen == [has_fast_int8(LOW.device), False]
    assert not choose_blocks(gpt, LOW, enough // 2, 64).in_int8
    assert not choose_blocks(GPT(gpt.config), LOW, enough, 64).in_int8  # where nothing is frozen


@needs_compiler
@pytest.mark.parametrize(("width", "from_scratch", "wide"), [(1, True, True), (0, True, False), (1, False, False)])
def test_a_wide_model_learns_from_scratch_in_8_bits_where_that_is_fast(width, from_scratch, wide):
    gpt, _ = make(lora=False)
    width += WIDE_INT8 - 1
    chosen = [choose_blocks(gpt, compute, int(WORTH), width, from_scratch=from_scratch) for compute in (LOW, CPU)]
    assert [each.in_int8 for each in chosen] == [wide and has_fast_int8(LOW.device), False]
    in_c = can_learn_in_c(LOW) and has_fast_int8(LOW.device)
    assert [each.logits_in_int8 for each in chosen] == [from_scratch and in_c, False]


@pytest.mark.parametrize("lora", [True, False])
def test_where_the_compiler_fails_blocks_are_eager_again_and_the_reason_is_said(caplog, lora):
    gpt, goal = make(lora=lora)
    forward = gpt.blocks[0].before_attention

    kind = LoRALinear if lora else torch.nn.Linear
    layers = [module for module in gpt.blocks.modules() if isinstance(module, kind)]

    def are_in_int8() -> list[bool]:
        return [layer.int8 is not None if lora else isinstance(layer, LearnedInt8Linear) for layer in layers]

    in_int8 = []

    def fails(index: int) -> torch.Tensor:
        if torch.is_grad_enabled():  # where blocks would be compiled
            in_int8.append(are_in_int8())
            raise RuntimeError("cannot write\nmore of it")
        return goal.loss(index)

    for compute in (IN_8_BITS, LOW):
        found = compile_blocks(gpt, Objective(fails, goal.evaluate, goal.best), compute)
    assert (found.blocks, found.blocks_reason) == (EAGER, "the compiler failed: cannot write")
    assert "the blocks can't be compiled: cannot write" in caplog.text
    assert gpt.blocks[0].before_attention == forward
    assert in_int8 == [[IN_8_BITS.in_int8] * 10, [False] * 10]
    assert not any(are_in_int8())


def learn_either_way(lora: str) -> None:
    """Losses of compiled blocks are near those of eager ones; where nothing is learned they are eager, to the bit."""
    losses, evaluated = [], []
    config = CONFIG.model_copy(update={"learning_rate": 1e-2 if lora else 1e-3})
    for compute in (CPU, LOW, IN_8_BITS):
        gpt, goal = make(dropout=0.0, steps=4, lora=bool(lora))  # masks would be others
        assert compile_blocks(gpt, goal, compute) == compute
        with torch.inference_mode():
            evaluated.append(goal.evaluate())
        assert all(weight.grad is None for weight in gpt.parameters())
        losses.append(torch.tensor([row["train_loss"] for row in train(gpt, config, goal)]))
    assert evaluated[0] == evaluated[1] == evaluated[2]  # to the bit
    eager, fast, rounded = losses
    assert not torch.equal(eager, fast)
    assert torch.equal(fast, rounded) != IN_8_BITS.in_int8
    assert (eager - fast).abs().max() < 0.01  # of 3.9; bfloat16 has 8 bits
    assert (eager - rounded).abs().max() < 0.05
    assert eager[0] > eager[-1]


def differentiate(lora: str) -> None:
    """Gradients of compiled blocks, in float32 and with products in 8 bits, against those in float64 as written."""
    gpt, _ = make(dropout=0.0, lora=bool(lora))
    block = gpt.blocks[1]
    for module in block.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1)
    exact = deepcopy(block).double()
    x_BTC, upstream_BTC = torch.randn(2, 2, 32, 64)
    context = gpt._context(torch.arange(32).expand(2, 32), None, None)
    rounded = deepcopy(block)
    if not multiply_in_int8(rounded, lambda: rounded(x_BTC, context)):
        learn_in_int8([module for module in rounded.modules() if isinstance(module, torch.nn.Linear)])
    for each in (block, rounded):
        each.before_attention = compiled._compiled(each.before_attention)
        each.after_attention = compiled._compiled(each.after_attention)
    found = []
    for each, dtype in ((exact, torch.float64), (block, torch.float32), (rounded, torch.float32)):
        own_BTC = x_BTC.detach().clone().to(dtype).requires_grad_()
        each(own_BTC, context).backward(upstream_BTC.to(dtype))
        found.append([own_BTC.grad, *(w.grad for w in each.parameters() if w.requires_grad)])
    for expected, ours, in_int8 in zip(*found, strict=True):
        assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()
        if sums_are_exact():
            assert 1e-4 < (in_int8 - expected).norm() / expected.norm() < 0.05


def in_a_process(function: str, *inputs: str) -> str:
    """What a function of this file writes in a process of its own, as what other tests import may be in the way."""
    code = f"import runpy; runpy.run_path({__file__!r})[{function!r}](*{inputs!r})"
    done = subprocess.run([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, check=True)
    return done.stdout


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("lora", ["lora", ""])
@pytest.mark.parametrize("shown", [learn_either_way, differentiate])
def test_compiled_blocks_learn_as_eager_ones_with_the_gradients_of_double_precision(shown, lora):
    assert in_a_process(shown.__name__, lora) == ""


def learn(folder: str, stop: str, lora: str) -> None:
    """Train in this process, up to a step that is asked for; the hash of the weights goes to stdout."""
    gpt, goal = make(lora=bool(lora))
    compute = compile_blocks(gpt, goal, IN_8_BITS)
    asked = iter([False] * int(stop) + [True])
    try:
        train(gpt, CONFIG, goal, checkpoints=Checkpoints(Path(folder)), stop=lambda: next(asked))
    except InterruptedError:
        return
    weights = [weight.detach().contiguous().view(torch.uint8) for weight in gpt.parameters()]
    digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
    sys.stdout.write(f"{compute.blocks}: {digest}\n")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("lora", ["lora", ""])
def test_two_processes_make_the_same_bytes_and_so_does_one_that_goes_on(tmp_path, lora):
    def run(folder: str, stop: int = 99) -> str:
        return in_a_process("learn", str(tmp_path / folder), str(stop), lora)

    first = run("first")
    assert first.startswith(f"{IN_8_BITS.blocks}: ")
    assert run("second", 7) == ""
    assert run("second") == first
