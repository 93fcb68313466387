"""Networks of `transformers` from tiny configurations, by factories as a user would write them.

`transformers` is imported when one is called.
"""

from __future__ import annotations

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}

_IMAGE = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}

_IDS = "input_ids:int64[1,9]<99"
_MASKED = f"{_IDS},attention_mask:int64[1,9]<2"
_PIXELS = "pixel_values:float[1,3,32,32]"


def _made(model, configuration, **settings):
    import transformers  # noqa: PLC0415 - optional, and slow to import

    made = getattr(transformers, configuration)(**settings)
    return getattr(transformers, model)(made)


def bert():
    """Build an encoder of text that returns states."""
    return _made("BertModel", "BertConfig", **_TEXT)


def bert_masked():
    """Build the encoder with a last layer that shares its weight with the token embedding."""
    return _made("BertForMaskedLM", "BertConfig", **_TEXT)


def bert_classes():
    """Build the encoder with a classifier."""
    return _made("BertForSequenceClassification", "BertConfig", num_labels=3, **_TEXT)


def distilbert():
    """Build a smaller encoder of text."""
    settings = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    return _made("DistilBertForMaskedLM", "DistilBertConfig", **settings)


def roberta():
    """Build an encoder of text with RoBERTa's changes."""
    return _made("RobertaForMaskedLM", "RobertaConfig", pad_token_id=1, **_TEXT)


def vit():
    """Build an encoder of images."""
    return _made("ViTForImageClassification", "ViTConfig", num_labels=10, **_IMAGE)


def deit():
    """Build an encoder of images with a token for distillation."""
    return _made("DeiTForImageClassification", "DeiTConfig", num_labels=10, **_IMAGE)


def dinov2():
    """Build an encoder of images with scaled branches."""
    settings = {**_IMAGE, "mlp_ratio": 2}
    del settings["intermediate_size"]
    return _made("Dinov2ForImageClassification", "Dinov2Config", num_labels=10, **settings)


def convnext():
    """Build a convolutional network."""
    settings = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "num_labels": 10}
    return _made("ConvNextForImageClassification", "ConvNextConfig", **settings)


def resnet():
    """Build a residual convolutional network."""
    settings = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
    return _made("ResNetForImageClassification", "ResNetConfig", layer_type="basic", **settings)


def swin():
    """Build an encoder with attention in shifted windows."""
    settings = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2]}
    return _made(
        "SwinForImageClassification", "SwinConfig", num_heads=[2, 4], window_size=4, **settings
    )


def gpt2():
    """Build a decoder of text with a tied head, whose linear layers hold transposed weights."""
    settings = {"vocab_size": 99, "n_positions": 40, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return _made("GPT2LMHeadModel", "GPT2Config", **settings)


def gpt_neox():
    """Build a decoder with one projection for queries, keys and values."""
    return _made("GPTNeoXForCausalLM", "GPTNeoXConfig", **_TEXT)


def llama():
    """Build a decoder with gated feed-forward layers and fewer keys than queries."""
    return _made("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **_TEXT)


def llama_tied():
    """Build the same decoder with a tied head."""
    return _made("LlamaForCausalLM", "LlamaConfig", tie_word_embeddings=True, **_TEXT)


def qwen2():
    """Build a similar decoder with biases."""
    return _made("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, **_TEXT)


def mixtral():
    """Build a decoder of experts."""
    settings = {**_TEXT, "num_key_value_heads": 2, "num_local_experts": 4}
    return _made("MixtralForCausalLM", "MixtralConfig", **settings)


def opt():
    """Build a decoder with learnt positions."""
    settings = {**_TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32}
    del settings["intermediate_size"]
    return _made("OPTForCausalLM", "OPTConfig", **settings)


def mamba():
    """Build a decoder without attention."""
    settings = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    return _made("MambaForCausalLM", "MambaConfig", **settings)


def t5():
    """Build an encoder and a decoder that share their embedding with each other and the head."""
    settings = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2}
    return _made("T5ForConditionalGeneration", "T5Config", num_heads=4, **settings)


def bart():
    """Build another encoder and decoder, with BART's changes."""
    settings = {"vocab_size": 99, "max_position_embeddings": 40, "d_model": 32}
    for side in ("encoder", "decoder"):
        settings |= {
            f"{side}_layers": 2,
            f"{side}_attention_heads": 4,
            f"{side}_ffn_dim": 64,
        }
    return _made("BartForConditionalGeneration", "BartConfig", **settings)


def marian():
    """Build an encoder and a decoder whose positions are computed, and in no file."""
    settings = {"vocab_size": 99, "max_position_embeddings": 40, "d_model": 32}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
    return _made("MarianMTModel", "MarianConfig", pad_token_id=98, **settings)


def whisper():
    """Build an encoder of sound and a decoder of text."""
    settings = {"vocab_size": 99, "d_model": 32, "num_mel_bins": 16, "pad_token_id": 0}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
    return _made(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        max_source_positions=20,
        max_target_positions=40,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        **settings,
    )


def wav2vec2():
    """Build an encoder of sound whose positions pass a convolution of normalised weight."""
    settings = {
        **_TEXT,
        "conv_dim": [16, 16],
        "conv_kernel": [4, 3],
        "conv_stride": [2, 2],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }
    del settings["max_position_embeddings"]
    return _made("Wav2Vec2ForCTC", "Wav2Vec2Config", **settings)


def clip():
    """Build an encoder of images and one of text."""
    return _made(
        "CLIPModel",
        "CLIPConfig",
        text_config={**_TEXT, "projection_dim": 16, "eos_token_id": 98},
        vision_config={**_IMAGE, "projection_dim": 16},
        projection_dim=16,
    )


def detr():
    """Build a detector with attention between image and queries."""
    backbone = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]}
    import transformers  # noqa: PLC0415 - as above

    resnet = transformers.ResNetConfig(layer_type="basic", out_features=["stage4"], **backbone)
    settings = {"d_model": 32, "num_queries": 5, "use_timm_backbone": False}
    for side in ("encoder", "decoder"):
        settings |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
    return _made(
        "DetrForObjectDetection", "DetrConfig", backbone_config=resnet, backbone=None, **settings
    )


def segformer():
    """Build a network that segments by attention over fewer keys."""
    settings = {
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [16, 16, 32, 32],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 32,
    }
    return _made("SegformerForSemanticSegmentation", "SegformerConfig", **settings)


_INPUTS = {
    bert: _MASKED,
    bert_masked: _MASKED,
    bert_classes: _MASKED,
    distilbert: _MASKED,
    roberta: _MASKED,
    vit: _PIXELS,
    deit: _PIXELS,
    dinov2: _PIXELS,
    convnext: _PIXELS,
    resnet: _PIXELS,
    swin: _PIXELS,
    gpt2: _MASKED,
    gpt_neox: _MASKED,
    llama: _MASKED,
    llama_tied: _IDS,
    qwen2: _MASKED,
    mixtral: _IDS,
    opt: _MASKED,
    mamba: _IDS,
    t5: f"{_MASKED},decoder_input_ids:int64[1,5]<99",
    bart: f"{_IDS},decoder_input_ids:int64[1,5]<99",
    whisper: "input_features:float[1,16,40],decoder_input_ids:int64[1,5]<99",
    wav2vec2: "input_values:float[1,400]",
    clip: f"{_MASKED},{_PIXELS}",
    detr: "pixel_values:float[1,3,64,64]",
    segformer: "pixel_values:float[1,3,64,64]",
}

TINY = {f"{__name__}:{make.__name__}": inputs for make, inputs in _INPUTS.items()}
"""The values of `--input-spec` by those of `--arch`, for each of these networks."""
