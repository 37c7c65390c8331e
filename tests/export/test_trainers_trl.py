"""Exported files in TRL: each recipe trains a tiny model for two steps, rows with tool calls among them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Ran
from tests.rollout_files import rollout_row, write_rows

pytestmark = [
    pytest.mark.extras,
    # of the libraries; TRL warns of experimental parts and of what a CPU lacks
    pytest.mark.filterwarnings("default"),
]

TEMPLATE = (
    "{% for tool in tools or [] %}<tool>{{ tool | tojson }}{% endfor %}"
    "{% for message in messages %}<{{ message.role }}>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{% if message.content is string %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}<call>{{ call.function.name }}"
    "{% for name, value in call.function.arguments.items() %} {{ name }}={{ value }}{% endfor %}</call>{% endfor %}"
    "</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A chat template that writes all that rows have, and walks the arguments of calls as most templates do."""


def tasks() -> list[dict[str, Any]]:
    """Rollouts of four tasks: two with text alone, and two with tools of different arguments and reasoning."""
    rows = []
    for task in range(4):
        name = f"a{task}"
        tool = {
            "type": "function",
            "name": f"f{task}",
            "parameters": {"type": "object", "properties": {name: {"type": "integer"}}},
        }
        for index in range(2):
            row = rollout_row(task, index, 1.0 - index, expected_answer=str(task))
            if task % 2:
                row["responses_create_params"]["tools"] = [tool]
                row["response"]["output"][:0] = [
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                    {
                        "type": "function_call",
                        "call_id": "c",
                        "name": f"f{task}",
                        "arguments": json.dumps({name: index}),
                    },
                    {"type": "function_call_output", "call_id": "c", "output": "7"},
                ]
            rows.append(row)
    return rows


@pytest.fixture
def dataset(command: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A function that exports a recipe in TRL's form and loads the file as TRL's users do."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    write_rows(tmp_path / "r.jsonl", tasks())

    def load(recipe: str) -> Any:
        files = ("+input_jsonl_fpath=r.jsonl", f"+output_jsonl_fpath={recipe}.jsonl")
        assert command(f"+recipe={recipe}", "+format=trl", *files, script="ng_export_rollouts").code == 0
        name = str(tmp_path / f"{recipe}.jsonl")
        return datasets.load_dataset("json", data_files=name, split="train", cache_dir=str(tmp_path / "cache"))

    return load


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The folder of a tiny Qwen 2 with random weights: trainers of pairs load it again, as the reference."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    folder = str(tmp_path / "model")
    Qwen2ForCausalLM(Qwen2Config(vocab_size=300, **sizes, **heads, **special)).save_pretrained(folder)
    return folder


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer of bytes with the template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: n for n, token in enumerate(["</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken("</s>"), AddedToken("<pad>")])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", bos_token="</s>", pad_token="<pad>")
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize("recipe", ["sft", "dpo", "kto", "rl"])
def test_trl_trains_on_the_file(
    recipe: str, dataset: Callable[[str], Any], model: str, tokenizer: Any, tmp_path: Path
) -> None:
    """TRL's trainer of the recipe takes the loaded file without a conversion, and every row is among its examples."""
    import trl

    class_name = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "rl": "GRPO"}[recipe]
    options: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "max_steps": 2, "per_device_train_batch_size": 2}
    options |= {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    more: dict[str, Any] = {}
    seen: list[tuple[Any, Any]] = []
    if recipe == "rl":
        options |= {"num_generations": 2, "max_completion_length": 4}

        def reward(completions: list[Any], expected_answer: list[str], pass_rate: list[float], **_: Any) -> list[float]:
            seen.extend(zip(expected_answer, pass_rate, strict=True))
            return [float(len(seen) + n) for n in range(len(completions))]

        more["reward_funcs"] = reward
    else:
        options["max_length"] = 512
    rows = dataset(recipe)
    trainer = getattr(trl, f"{class_name}Trainer")(
        model=model,
        args=getattr(trl, f"{class_name}Config")(**options),
        train_dataset=rows,
        processing_class=tokenizer,
        **more,
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert len(rows) == {"sft": 8, "dpo": 4, "kto": 8, "rl": 4}[recipe]
    if recipe == "rl":
        assert {rate for _, rate in seen} == {0.5}
        assert {answer for answer, _ in seen} <= set("0123")


def test_what_trl_tokenizes_has_the_calls_and_tools_of_each_row(
    dataset: Callable[[str], Any], model: str, tokenizer: Any, tmp_path: Path
) -> None:
    """Each row's tokens have its own tool, its own argument and its reasoning: no keys of other rows."""
    import trl

    options = {"output_dir": str(tmp_path / "out"), "use_cpu": True, "bf16": False, "report_to": "none"}
    config = trl.SFTConfig(**options, max_length=2048)
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=dataset("sft"), processing_class=tokenizer)
    texts = [tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]
    assert len(texts) == 8
    for number, text in enumerate(texts):
        task, index = divmod(number, 2)
        assert ("<tool>" in text) == (task % 2 == 1)
        assert "None" not in text
        assert "null" not in text
        if task % 2:
            assert (
                f"<think>hm</think><call>f{task} a{task}={index}</call></s><tool>7</s><assistant>answer {index}" in text
            )
