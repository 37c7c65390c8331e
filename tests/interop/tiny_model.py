"""Write a tiny language model for `transformers serve` into the folder that the command line names.

It runs in the environment of the server. Attention and MLP add nothing, so the next token depends on the last one only,
and the output weights say which one follows: at the start of a turn the model calls the tool `add`, after the tool's
result it answers, and anything else is followed by the end of the turn.
"""

from __future__ import annotations

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

# Qwen's markup, by which transformers recognises tool calls.
START, END = "<|im_start|>assistant\n", "<|im_end|>"
AFTER_RESULT = "after the result " + START
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 40, "b": 2}}\n</tool_call>'
ANSWER = "\\boxed{42}"
CHAT_TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ message.tool_calls }}\n{% endfor %}"
    f"{{{{ {AFTER_RESULT!r} if messages[-1].role == 'tool' else {START!r} }}}}"
)
HIDDEN_SIZE = 32
CONTEXT = 8192
CERTAIN = 100.0  # a logit that leaves no other token a chance, also when sampling


def main(folder: str) -> None:
    """Write the model, its tokenizer and its chat template."""
    tokenizer = byte_tokenizer()
    model = model_of(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each byte, and one for each text that the model writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_tokens([CALL, ANSWER])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[START, AFTER_RESULT],
        chat_template=CHAT_TEMPLATE,
    )


def model_of(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A model of one layer whose output weights hold the order of the tokens."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=HIDDEN_SIZE,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    layer = model.model.layers[0]
    call, answer, start, after_result, end = tokenizer.convert_tokens_to_ids([CALL, ANSWER, START, AFTER_RESULT, END])
    with torch.no_grad():
        for weights in (layer.self_attn.o_proj, layer.mlp.down_proj, model.model.embed_tokens, model.lm_head):
            weights.weight.zero_()
        for dimension, (token, following) in enumerate([(start, call), (after_result, answer)], start=1):
            model.model.embed_tokens.weight[token, dimension] = 1.0
            model.lm_head.weight[following, dimension] = CERTAIN
        # All other tokens share dimension 0, which the end of the turn follows.
        for token in set(range(config.vocab_size)) - {start, after_result}:
            model.model.embed_tokens.weight[token, 0] = 1.0
        model.lm_head.weight[end, 0] = CERTAIN
    return model


if __name__ == "__main__":
    main(sys.argv[1])
