"""Small random models of Hugging Face, strict: error, what spikes, and whether a cache changes what they generate.

    python benchmarks/hugging_face.py
    python benchmarks/hugging_face.py --models GPT-2 Qwen2 Llama --tokens 200
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator

import torch
from model_zoo.entry import Entry, call, tensors_of
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

Batch = dict[str, Tensor]
# what is converted where the cache has to be kept
PARTS = {
    "GPT-2": ["transformer.h.*", "lm_head"], "Qwen2": ["model.layers.*", "lm_head"],
    "Llama": ["model.layers.*", "lm_head"],
}  # fmt: skip
_NO_TRANSFORMERS = ("ResNet", "MobileNetV2", "wav2vec2", "wav2vec2, padded")
_LENGTH = 256  # positions that a language model has
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="such as GPT-2; all if left out")
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--calibration-samples", type=int, default=128, metavar="N")
    parser.add_argument("--tokens", type=int, default=0, help="that language models generate, with and without a cache")
    return parser.parse_args()


def models() -> Iterator[Entry]:
    """:return: transformers of the model zoo, and two more"""
    import transformers as t
    from model_zoo.transformers_models import WORDS, entries

    known = {entry.name: entry for entry in entries() if entry.name not in _NO_TRANSFORMERS}
    texts, images = known["Qwen2"].batch, known["ViT"].batch
    gpt2 = t.GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=_LENGTH, **_ENDS)
    known["GPT-2"] = Entry("transformers", "GPT-2", lambda: t.GPT2LMHeadModel(gpt2), texts)
    llama = t.LlamaConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, **_ENDS,
    )  # fmt: skip
    known["Llama"] = Entry("transformers", "Llama", lambda: t.LlamaForCausalLM(llama), texts)
    swin = t.SwinConfig(image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
    known["Swin"] = Entry("transformers", "Swin", lambda: t.SwinForImageClassification(swin), images)
    yield from known.values()


@torch.no_grad()
def built(entry: Entry) -> nn.Module:
    """:return: the model, with random weights whose outputs are as large as their inputs"""
    torch.manual_seed(0)
    model = entry.build().eval()
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and not any(part in name for part in ("embed", "wte", "wpe")):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    return model


def converted(ann: nn.Module, batches: list[Batch], args: argparse.Namespace, parts: list[str] | None) -> nn.Module:
    """:return: a strict network, or a model with strict networks in it"""
    options = {"mode": "css", "time_steps": args.time_steps, "strict": True, "show_progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps no cache
        return sjpc.ParallelConverter(batches, **options).convert(ann, submodules=parts)


def first_output(model: nn.Module, batch: Batch) -> Tensor:
    """:return: the first tensor of floats that the model returns, which is the logits"""
    predict = model.predict if isinstance(model, sjpc.SpikingNetwork) else model
    return tensors_of(call(predict, batch))[0]


def error(value: Tensor, expected: Tensor) -> float:
    """:return: how far a tensor is from another, relative to it"""
    return float((value - expected).norm() / expected.norm())


@torch.no_grad()
def compare(entry: Entry, args: argparse.Namespace) -> str:
    """:return: a row of the table"""
    ann = built(entry)
    batches = [entry.batch(8) for _ in range(args.calibration_samples // 8)]
    snn, fresh = converted(ann, batches, args, None), entry.batch(8)
    report = sjpc.inspect(snn, show=False)
    off = [100 * error(first_output(snn, batch), first_output(ann, batch)) for batch in (batches[0], fresh)]
    snn = snn.double()
    fresh = {name: x.double() if x.is_floating_point() else x for name, x in fresh.items()}
    results = []
    for execution in ("packed", "stepwise"):
        snn.execution = execution
        results.append(first_output(snn, fresh))
    share, stepwise = 100 * report.share_after_input, error(results[1], results[0])
    cells = [f"{off[0]:.2f}", f"{off[1]:.2f}", f"{share:.1f}", str(len(report.normalisations)), f"{stepwise:.0e}"]
    return f"| {' | '.join([entry.name, *cells])} |"


@torch.no_grad()
def generate(entry: Entry, args: argparse.Namespace) -> str:
    """:return: whether a converted language model generates the same tokens with and without its cache"""
    ann = built(entry)
    batches = [entry.batch(8) for _ in range(args.calibration_samples // 8)]
    snn = converted(ann, batches, args, PARTS[entry.name])
    snn.execution = "packed"
    options = {"max_new_tokens": args.tokens, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt, mask = entry.batch(3)["input_ids"][:, :6], torch.ones(3, 6, dtype=torch.long)
    mask[0, :3] = 0  # padded on the left
    tokens, seconds = [], []
    for use_cache in (True, False):
        start = time.process_time()
        tokens.append(snn.generate(prompt, attention_mask=mask, use_cache=use_cache, **options))
        seconds.append(time.process_time() - start)
    equal = "equal" if torch.equal(*tokens) else "different"
    share, kinds = 100 * sjpc.inspect(snn, show=False).share, tokens[0].unique().numel()
    return (
        f"{entry.name}: {args.tokens} tokens, {equal} with and without a cache ({kinds} different ones). "
        f"{len(snn.parts)} parts, {share:.1f} % accumulates. {seconds[0]:.1f} s and {seconds[1]:.1f} s"
    )


def main() -> None:
    """Print the table, and below it what language models generate."""
    args = parse_arguments()
    chosen = [entry for entry in models() if args.models is None or entry.name in args.models]
    print("| model | error, seen, % | error, new, % | accumulates, % | normalisations | stepwise, float64 |")
    print("|---|---|---|---|---|---|")
    for entry in chosen:
        print(compare(entry, args), flush=True)
    for entry in chosen:
        if args.tokens and entry.name in PARTS:
            print(generate(entry, args), flush=True)


if __name__ == "__main__":
    main()
