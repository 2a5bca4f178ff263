"""Small random configurations of Hugging Face's architectures, with the dict batches that their processors give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import transformers
from torch import Tensor, nn

from .entry import Entry

WORDS = 100
_ENCODER = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
_PIXELS = {"image_size": 32, "patch_size": 8}


def entries() -> Iterator[Entry]:
    """:return: one entry for each architecture, with the head that its users train"""
    t = transformers
    yield _entry("BERT", t.BertForSequenceClassification, t.BertConfig(vocab_size=WORDS, **_ENCODER), _sentence_pairs)
    yield _entry("ViT", t.ViTForImageClassification, t.ViTConfig(**_PIXELS, **_ENCODER), _pixels(32))
    gpt2 = t.GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    yield _entry("GPT-2", t.GPT2LMHeadModel, gpt2, _texts)
    qwen2 = t.Qwen2Config(vocab_size=WORDS, num_key_value_heads=2, **_ENCODER)
    yield _entry("Qwen2", t.Qwen2ForCausalLM, qwen2, _texts)
    segformer = t.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=32
    )
    yield _entry("SegFormer", t.SegformerForSemanticSegmentation, segformer, _pixels(64))
    resnet = t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1])
    yield _entry("ResNet", t.ResNetForImageClassification, resnet, _pixels(64))
    mobilenet = t.MobileNetV2Config(depth_multiplier=0.35)
    yield _entry("MobileNetV2", t.MobileNetV2ForImageClassification, mobilenet, _pixels(64))
    yolos = t.YolosConfig(image_size=[32, 32], patch_size=8, num_detection_tokens=5, **_ENCODER)
    yield _entry("YOLOS", t.YolosForObjectDetection, yolos, _pixels(32))
    for name, batch, norm in (("wav2vec2", _sounds, "group"), ("wav2vec2, padded", _padded_sounds, "layer")):
        wav2vec2 = t.Wav2Vec2Config(
            vocab_size=20, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3),
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer", **_ENCODER,
        )  # fmt: skip
        yield _entry(name, t.Wav2Vec2ForCTC, wav2vec2, batch)


def _entry(
    name: str, model: type[nn.Module], config: transformers.PretrainedConfig, batch: Callable[[int], dict[str, Tensor]]
) -> Entry:
    return Entry("transformers", name, lambda: model(config), batch)


def _padding(n: int, length: int) -> Tensor:
    """The attention mask of samples of which every second is shorter by a third."""
    mask = torch.ones(n, length, dtype=torch.long)
    mask[1::2, length - length // 3 :] = 0
    return mask


def _texts(n: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(WORDS, (n, 12)), "attention_mask": _padding(n, 12)}


def _sentence_pairs(n: int) -> dict[str, Tensor]:
    second = (torch.arange(12) >= 6).long().expand(n, 12).clone()
    return _texts(n) | {"token_type_ids": second}


def _pixels(side: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda n: {"pixel_values": torch.randn(n, 3, side, side)}


def _sounds(n: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 1600)}


def _padded_sounds(n: int) -> dict[str, Tensor]:
    mask = _padding(n, 1600)
    return {"input_values": torch.randn(n, 1600) * mask, "attention_mask": mask}
