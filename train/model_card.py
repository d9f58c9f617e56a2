"""`README.md` of a finished model: what it is, what it learned from, how, and what it must not be trusted with."""

import re
from pathlib import PurePosixPath

from .labels import label

_FORMAT = "BEGINNING OF CONVERSATION: USER: question GPT: answer"

_PYTHON = """\
IMPORTS

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = LOAD
messages = [{"role": "user", "content": "Who are you?"}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
output = model.generate(**inputs, max_new_tokens=100)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

_IMPORT_MODEL = "from transformers import AutoModelForCausalLM, AutoTokenizer"
_LOAD_MODEL = 'AutoModelForCausalLM.from_pretrained("FOLDER", dtype="auto")'

_IMPORT_ADAPTER = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
_LOAD_ADAPTER = 'AutoPeftModelForCausalLM.from_pretrained("FOLDER", dtype="auto").merge_and_unload()'
_MERGE = 'model.save_pretrained("merged")\ntokenizer.save_pretrained("merged")'

_RECIPE = {
    "max_length": "longest conversation, tokens",
    "packing": "packing",
    "num_train_epochs": "epochs",
    "max_steps": "steps at most",
    "per_device_train_batch_size": "rows per process and step",
    "gradient_accumulation_steps": "gradient accumulation",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "lr_scheduler_kwargs": "schedule's options",
    "warmup_steps": "warm-up (steps, or a share of them)",
    "warmup_ratio": "warm-up, share of the steps",
    "optim": "optimizer",
    "weight_decay": "weight decay",
    "max_grad_norm": "gradient clipping",
    "dtype": "weights loaded as",
    "bf16": "bfloat16 mixed precision",
    "fp16": "float16 mixed precision",
    "attn_implementation": "attention",
    "load_in_4bit": "base quantized to 4 bits (QLoRA)",
    "load_in_8bit": "base quantized to 8 bits",
    "lora_r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_dropout": "LoRA dropout",
    "lora_target_modules": "LoRA on",
    "neftune_noise_alpha": "NEFTune noise",
    "label_smoothing_factor": "label smoothing",
    "dropout": "dropout",
}
"""Arguments of the recipe that a reader of the card wants, and what the table calls them."""


def model_card(card: dict, manifest: dict, *, curve: str | None = None) -> str:
    """The model card in the Hugging Face Hub's format: YAML front matter and Markdown.

    Args:
        card: the content of `koala.json` (`train.card.card`).
        manifest: the mixture's.
        curve: the name of a picture of the losses in the same folder, if there is one.
    """
    import yaml

    front = yaml.safe_dump(_front_matter(card, manifest), sort_keys=False, allow_unicode=True, width=1000)
    title = _text(PurePosixPath(card["recipe"].get("output_dir", "")).name or "Koala")
    parts = (
        [f"# {title}", "", _what_it_is(card)],
        ["## Use", "", *_use(card)],
        ["## Data", "", *_data(card, manifest)],
        ["## Recipe", "", *_recipe(card)],
        ["## Training", "", *_training(card), *(["", f"![losses over the steps]({curve})"] if curve else [])],
        ["## Evaluation", "", *_evaluation(card)],
        ["## Limits and safety", "", *_limits(card, manifest)],
        ["## License", "", *_license(card, manifest)],
    )
    return f"---\n{front}---\n\n" + "\n\n".join("\n".join(part) for part in parts) + "\n"


def _front_matter(card: dict, manifest: dict) -> dict:
    """What the Hub reads. A key whose value is not known to be right for it is left out."""
    front: dict = {}
    if license := (card["license"] or "").lower():
        if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
            front["license"] = license
        else:
            front |= {"license": "other", "license_name": _slug(license)}
    if _hub_id(card["base_model"]):
        front |= {"base_model": card["base_model"], "base_model_relation": "adapter" if _adapter(card) else "finetune"}
    # Rows from files on a disk may be anything, whatever the source is called.
    if repos := sorted({entry["repo"] for entry in manifest["sources"].values() if _hub_id(entry.get("repo"))}):
        front["datasets"] = repos
    return front | {
        "language": card["language"],
        "library_name": "peft" if _adapter(card) else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["koala", "conversational", "sft", "trl", *(["lora"] if _adapter(card) else [])],
    }


def _what_it_is(card: dict) -> str:
    base = _text(card["base_model"])
    if not _hub_id(card["base_model"]):
        base = f"“{base}”, a local model about which nothing more is recorded here"
    size = f" It has {card['parameters']:,} parameters." if card["parameters"] else ""
    return (
        "A research prototype of a chat model, made with Koala, an open pipeline after the Koala model of BAIR (April "
        f"2023): {'a LoRA adapter for' if _adapter(card) else 'a fine-tune of'} {base}, on the mixture of "
        f"conversations “{_text(card['mixture']['name'])}”.{size} `koala.json` beside this card holds the whole recipe "
        "and the hashes of the data."
    )


def _use(card: dict) -> list[str]:
    adapter = _adapter(card)
    python = _PYTHON.replace("IMPORTS", _IMPORT_ADAPTER if adapter else _IMPORT_MODEL)
    return [
        "With `FOLDER` for the folder of this card"
        + (" (an adapter: its base, which `adapter_config.json` names, is loaded too):" if adapter else ":"),
        "",
        "```python",
        python.replace("LOAD", _LOAD_ADAPTER if adapter else _LOAD_MODEL),
        "```",
        "",
        f"The tokenizer carries the chat template (`{_FORMAT}` and the end token); use no other. In this snippet the "
        "text of an end token in a message ends the turn; `koala-tui` and training treat it as plain text.",
        "",
        "As a quantized model in the terminal" + (", merged with its base first:" if adapter else ":"),
        "",
        *(["```python", _MERGE, "```", ""] if adapter else []),
        "```",
        f"python -m convert {'merged' if adapter else 'FOLDER'} --out koala-gguf --name koala --quantize Q8_0",
        "koala-tui koala-gguf/koala-Q8_0.gguf",
        "```",
    ]


def _data(card: dict, manifest: dict) -> list[str]:
    counted = card["mixture"]["sources"]
    total = sum(counts["trained_tokens"] for counts in counted.values()) or 1
    rows = []
    for name, entry in manifest["sources"].items():
        counts = counted.get(name, {"conversations": 0, "tokens": 0, "trained_tokens": 0})
        rows.append(
            (
                _text(entry["title"]),
                _origin(entry),
                f"{entry['rows']:,}",
                *(f"{counts[key]:,}" for key in ("conversations", "tokens", "trained_tokens")),
                f"{counts['trained_tokens'] / total:.1%}",
                _text(entry["license"] or "not stated"),
            )
        )
    head = ("source", "from", "rows read", "conversations", "tokens", "trained tokens", "share", "license")
    lines = [
        "The loss is on the answers and their end tokens alone, which are the trained tokens. The counts are those of "
        "one pass over the training split.",
        "",
        *_table(head, rows, "llrrrrrl"),
        "",
        f"Mixture {_text(card['mixture']['name'])}, content sha256 `{card['mixture']['content_sha256']}`, manifest "
        f"sha256 `{card['mixture']['manifest_sha256']}`. Held out for evaluation: "
        f"{manifest['splits']['eval']['conversations']:,} conversations.",
    ]
    if any(entry["options"].get("markers") == "both" for entry in manifest["sources"].values()):
        lines += [
            "",
            "Of comparisons both answers were trained on, the one that people liked less under the marker "
            "`An Unhelpful Answer:`; a chat always asks with `GPT:`.",
        ]
    return lines


def _origin(entry: dict) -> str:
    if entry.get("repo"):
        return _text(entry["repo"]) + (f" at {_text(entry['revision'], 12)}" if entry.get("revision") else "")
    return f"{len(entry['files'])} local file{'s' * (len(entry['files']) != 1)}" if entry.get("files") else "generated"


def _recipe(card: dict) -> list[str]:
    recipe = card["recipe"]
    given = [
        (name, recipe[key])
        for key, name in _RECIPE.items()
        if recipe.get(key) not in (None, [], "")
        and not (key == "num_train_epochs" and recipe.get("max_steps", -1) > 0)
        and not (key.startswith("lora_") and not _adapter(card))
    ]
    rows = [(name, _value(value)) for name, value in given]
    rows += [("processes", f"{card['hardware']['processes']:,}"), ("seed", str(card["seed"]))]
    return [
        *_table(("", ""), rows, "ll"),
        "",
        f"Tokenizer “{_text(card['tokenizer']['name'])}”: {_text(card['tokenizer']['proof'], 500).rstrip('.')}.",
        "",
        "Made with "
        + ", ".join(f"{_text(name)} {_text(str(version))}" for name, version in card["versions"].items())
        # A commit is 40 digits.
        + (f", commit `{_text(card['commit'])}`." if card["commit"] else "."),
    ]


def _training(card: dict) -> list[str]:
    training = card["training"]
    told = {
        "steps": ("steps", "{:,}"),
        "epochs": ("epochs", "{:g}"),
        "tokens": ("tokens", "{:,}"),
        "loss_first": ("training loss at the first record", "{:.3f}"),
        "loss_last": ("training loss at the last record", "{:.3f}"),
        "seconds": ("seconds, with evaluation and checkpoints", "{:,.0f}"),
        "tokens_per_second": ("tokens/s, all devices together", "{:,.0f}"),
        "mfu": ("model FLOPs utilization", "{:.1%}"),
    }
    rows = [(name, form.format(training[key])) for key, (name, form) in told.items() if training.get(key) is not None]
    processes = card["hardware"]["processes"]
    device = _text(card["hardware"]["device"])
    return _table(("", ""), [*rows, ("hardware", f"{processes} × {device}" if processes > 1 else device)], "ll")


def _evaluation(card: dict) -> list[str]:
    found = card["evaluation"]
    if found is None:
        return ["This run had no evaluation. How good the answers are has not been measured."]
    ordered = sorted(found["sources"].items(), key=lambda item: (-(item[1].get("loss") or 0.0), item[0]))
    rows = [("**all**", _number(found.get("loss")), _number(found.get("perplexity")))]
    rows += [(_text(name), _number(losses.get("loss")), _number(losses.get("perplexity"))) for name, losses in ordered]
    tokens = f", {found['tokens']:,.0f} tokens that carry loss" if found.get("tokens") else ""
    return [
        f"On the conversations held out, after step {found['step']:,}{tokens}:",
        "",
        *_table(("source", "loss (nats per token)", "perplexity"), rows, "lrr"),
        "",
        "They say how well the model predicts answers like those that it learned from, not how helpful, true or safe "
        "its own are.",
    ]


def _limits(card: dict, manifest: dict) -> list[str]:
    lines = [
        "This is a research prototype, and it was not made safe.",
        "",
        "- It states falsehoods fluently and as confidently as facts. The sure tone comes with the dialogues that it "
        "learned from and is no sign that it knows.",
        "- It reasons badly, and does arithmetic badly.",
        "- It repeats the biases and stereotypes of those dialogues and of its base.",
        "- It can be led to write misinformation and harmful or offensive text, by intent or by accident; that it "
        "refuses cannot be relied on.",
        "- It learned to converse in English; expect little in other languages.",
        "- Its dialogues were written by many people and may hold personal data, which it may repeat.",
        "",
        "It is meant for research. Do not use it commercially, for advice in medicine, law or money, or anywhere in "
        "front of people without safeguards and a test of your own for that use.",
    ]
    if "sharegpt" in manifest["sources"]:
        lines += [
            "",
            "Among its data are dialogues with ChatGPT that users shared. They carry terms of their own: OpenAI's for "
            "ChatGPT's output, and those of the people who wrote them.",
        ]
    return lines


def _license(card: dict, manifest: dict) -> list[str]:
    own = f"This model: {_text(card['license'], 200)}." if card["license"] else "No license was stated for this model."
    strict = ", some of which allow no commercial use" if any(map(_restricted, manifest["sources"].values())) else ""
    return [
        f"{own} The license of the base, {_text(card['base_model'])}, applies as well, and so do the terms of the data "
        f"in the table above{strict}."
    ]


def _restricted(entry: dict) -> bool:
    return bool(re.search(r"\bnc\b|non.?commercial|research only", entry["license"] or "", re.IGNORECASE))


def _adapter(card: dict) -> bool:
    return bool(card["recipe"].get("use_peft"))


def _hub_id(name: str | None) -> bool:
    """Whether it is `owner/name`, with the characters that the Hub allows. (A local folder's name has no slash.)"""
    return bool(name and re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name, re.ASCII))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:60] or "unnamed"


def _value(value) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{_text(str(key))} {_value(item)}" for key, item in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else _text(str(value))


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def _text(text: str, longest: int = 120) -> str:
    """Text from data as one line of Markdown that shows as it is: no markup, link or HTML."""
    escaped = re.sub(r"[\\`*_{}\[\]<>#|~&$!@]", r"\\\g<0>", label(text, longest))
    return re.sub(r"(?i)(?<=[a-z])(?=://)|(?<=www)(?=\.)", r"\\", escaped)  # GFM makes links of bare addresses


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], align: str) -> list[str]:
    rule = tuple("---:" if side == "r" else "---" for side in align)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]
