"""A GGUF becomes a folder with the same arrays, the same tokens and the same chat template."""

import mlx.core as mx

from engine.checkpoint.checkpoint import open_checkpoint
from engine.checkpoint.load import load_tensors
from engine.conversion.quantize import convert
from engine.text.load import load_chat_template, load_tokenizer

TEXT = "Hello, world! 1234 <|im_start|>user\n\u00e9\u4e16\U0001f600  two  spaces"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def test_the_starter_model_keeps_arrays_tokens_and_template(starter_model, tmp_path):
    written = convert(starter_model, tmp_path / "folder")
    old, new = open_checkpoint(starter_model), open_checkpoint(tmp_path / "folder")
    assert (written.num_quantized, written.kept) == (211, ())
    assert new.quantization == old.quantization
    assert new.config.items() >= old.config.items()
    assert new.generation_config == old.generation_config
    arrays = dict(load_tensors(new))
    for name, array in load_tensors(old):
        assert mx.array_equal(arrays.pop(name), array), name
    assert not arrays
    tokenizers = [load_tokenizer(each) for each in (old, new)]
    assert tokenizers[0].encode(TEXT) == tokenizers[1].encode(TEXT)
    assert tokenizers[0].eos_token_ids == tokenizers[1].eos_token_ids
    prompts = [load_chat_template(*pair).render(MESSAGES) for pair in zip((old, new), tokenizers, strict=True)]
    assert prompts[0] == prompts[1]
