"""Fine-tune a base model on a mixture with TRL's SFTTrainer. The loss is on the assistant's turns alone.

    accelerate launch --config_file train/accelerate/cpu.yaml train/sft.py --config train/recipes/demo.yaml
    accelerate launch --config_file train/accelerate/fsdp2.yaml train/sft.py --config train/recipes/koala_13b.yaml

A recipe is a YAML file; each of its keys is also a flag, which has precedence (--max_steps 4). They are TRL's
SFTConfig and ModelConfig (--help_all lists them) and these:

    --mixture DIR    the folder that `python -m datasets_cfg build` wrote (required)
    --license ID     under which the trained model may be used, for its card
    --dropout P      of the embeddings and of what each block adds to the residual stream
    --overwrite      replace a finished model, or start an unfinished run over
    --dry_run        print the plan, try two steps on a shrunk model, leave nothing behind
    --debug          show the traceback of an error

An unfinished run in the same output_dir is resumed from its last whole checkpoint; SIGTERM makes it save one and end.
The model appears in output_dir when it is whole: an ordinary Hugging Face folder with the chat template, a model card,
the loss curve, and koala.json about where it comes from.
"""

import shutil
import sys
import time
import warnings
from copy import copy
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Parse the arguments, train, return the exit code."""
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return 0

    from datasets_cfg.errors import exit_code

    debug = "--debug" in arguments
    return exit_code(lambda: train(*parse([a for a in arguments if a != "--debug"])), debug=debug)


def parse(arguments: list[str]):
    """The arguments of recipe and command line, as (KoalaArguments, SFTConfig, ModelConfig).

    Raises:
        BadInput: the recipe is missing, is no YAML mapping, or has an unknown key or an impossible value.
    """
    import yaml
    from trl import ModelConfig, SFTConfig, TrlParser

    from datasets_cfg.errors import BadInput, one_line
    from train.settings import KoalaArguments, check

    # Its successor is unknown to the last transformers for Python 3.10.
    warnings.filterwarnings("ignore", message=".gradient_checkpointing. is deprecated")
    parser = TrlParser((KoalaArguments, SFTConfig, ModelConfig), prog="train/sft.py", allow_abbrev=False)
    parser.set_defaults(loss_type="nll")  # before 1.16, TRL's default is another way to compute it

    def refuse(message: str):
        raise BadInput(f"the recipe cannot be used: {one_line(ValueError(message))}; --help_all lists what there is")

    parser.error = refuse  # its own prints pages of usage
    if "--help_all" in arguments:
        parser.print_help()
        sys.exit()
    if arguments[-1:] == ["--config"]:
        refuse("--config names no file")
    try:
        koala, args, model_args = parser.parse_args_and_config(arguments)
    except (OSError, ValueError, yaml.YAMLError) as error:
        if "support bf16" in str(error):
            raise BadInput(
                "the recipe trains in bf16, which no GPU here has; set bf16: false and fp16: true for an older GPU, or "
                "use_cpu: true"
            ) from error
        raise BadInput(f"the recipe cannot be used: {one_line(error)}") from error
    check(args, model_args)
    return koala, args, model_args


def train(koala, args, model_args) -> int:
    """Run the recipe: set-up, tokenizer, data, model, trainer, train, save. Return the exit code."""
    # --- Set-up ---------------------------------------------------------------------------------------------------
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed
    from trl import get_peft_config, get_quantization_config

    from datasets_cfg.base_tokenizer import base_tokenizer
    from datasets_cfg.errors import BadInput, one_line
    from datasets_cfg.tokenization import load_manifest, tokenized
    from train import attention
    from train.card import card, recipe
    from train.console import use_console
    from train.curve import CURVE, draw
    from train.decoder import Decoder
    from train.dropout import add_dropout
    from train.dry_run import plan_here, rehearse, shrunk
    from train.flops import ModelFlops
    from train.hardware import here
    from train.memory import trained_parameters
    from train.metrics import MetricsFile, summary
    from train.mixture import load_ids, sample_texts
    from train.model_card import model_card
    from train.packing import lengths_of, pack, packed_rows
    from train.precision import HALVES, weights_dtype
    from train.progress import bars_for_terminals
    from train.recipe import adapter_of
    from train.run import STAGED, claim, finish, resume_point
    from train.settings import identity
    from train.space import check_space
    from train.stop import EXIT_CODE, SaveOnSigterm, end_with_launcher
    from train.trainer import PackedTrainer

    end_with_launcher()
    state = PartialState()
    set_seed(args.seed)
    if not bars_for_terminals():
        args.disable_tqdm = True
    whole_run = copy(args)
    if koala.dry_run:
        rehearse(koala, args)
    out, base, mixture = Path(args.output_dir), model_args.model_name_or_path, Path(koala.mixture)
    manifest = load_manifest(mixture)

    # --- Tokenizer ------------------------------------------------------------------------------------------------
    with state.main_process_first():
        tokenizer, proof = base_tokenizer(base, revision=model_args.model_revision, texts=sample_texts(mixture))
    state.print(proof)
    rows_per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps * state.num_processes
    run = identity(koala, args, model_args, manifest, tokenizer, rows_per_step)
    # Each looks, so that each refuses; where a disk is slow to show what is on it, the first one's answer counts.
    (checkpoint,) = broadcast_object_list([resume_point(out, run, overwrite=koala.overwrite)])

    # --- Data -----------------------------------------------------------------------------------------------------
    # One process makes the ids if they are not there yet, on each machine that does not see those of the first. Then
    # all read the same files.
    with state.main_process_first(), state.local_main_process_first():
        ids = tokenized(
            mixture, tokenizer, args.max_length, processes=args.dataset_num_proc or 1, quiet=args.disable_tqdm
        )
    rows, sources = {}, sorted(manifest["sources"])
    for split in ("train",) if args.eval_strategy == "no" else ("train", "eval"):
        if not manifest["splits"][split]["conversations"]:
            raise BadInput(f"the mixture {mixture} has no {split} conversations; build it with some")
        counts = ids.record["splits"][split]
        if not counts["conversations"]:
            raise BadInput(f"no {split} conversation of {mixture} fits into {args.max_length} tokens; raise max_length")
        with state.main_process_first():  # datasets maps the Parquet files to memory by way of Arrow files
            conversations = load_ids(ids, split)
        batch = rows_per_step if split == "train" else args.per_device_eval_batch_size * state.num_processes
        packing = pack(lengths_of(conversations), args.max_length, args.seed)
        rows[split] = packed_rows(conversations, packing, sources, multiple=batch)
        state.print(
            f"{split}: {counts['conversations']:,} conversations, {counts['tokens']:,} tokens in {len(packing):,} rows "
            f"({packing.fill:.2%} full); {counts['cut']} cut and {counts['left_out']} left out at {args.max_length} "
            f"tokens; {'tokenized now and kept in' if ids.made else 'read from'} {ids.folder}"
        )

    if koala.dry_run:
        state.print(plan_here(koala, whole_run, model_args, state.num_processes))

    # --- Model ----------------------------------------------------------------------------------------------------
    try:
        config = AutoConfig.from_pretrained(base, revision=model_args.model_revision)
        if len(tokenizer) > config.get_text_config().vocab_size:
            raise BadInput(f"the tokenizer of {base} has {len(tokenizer)} tokens, its model only {config.vocab_size}")
        decoder, adapter = Decoder.of(config), adapter_of(vars(model_args))
        check_space(out, decoder.parameters, trained_parameters(decoder, adapter), args)
        model_args.dtype, why = weights_dtype(args, model_args)
        state.print(f"weights: {model_args.dtype}; {why}")
        kernel, why = model_args.attn_implementation, "the recipe says so"
        if kernel is None:
            half = args.mixed_precision != "no" or model_args.dtype != "float32"
            kernel, why = attention.choose(config, args.device, half)
        state.print(f"attention: {kernel}; {why}")
        attention.register()
        as_chosen = {"dtype": model_args.dtype, "attn_implementation": kernel}
        if koala.dry_run:
            model = AutoModelForCausalLM.from_config(shrunk(config), **as_chosen)
        else:
            quantization = get_quantization_config(model_args)
            model = AutoModelForCausalLM.from_pretrained(
                base,
                revision=model_args.model_revision,
                quantization_config=quantization,
                device_map={"": args.device} if quantization else None,
                **as_chosen,
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise BadInput(f"cannot load the base model {base}: {one_line(error)}") from error
    model.config.use_cache = False
    for settings in (model.config, model.generation_config):
        settings.eos_token_id, settings.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    if koala.dropout:
        try:
            add_dropout(model, koala.dropout)
        except ValueError as error:
            raise BadInput(f"the recipe sets dropout to {koala.dropout}, but {error}; set dropout: 0") from error

    # --- Trainer --------------------------------------------------------------------------------------------------
    given = recipe(koala, args, model_args) | {"attn_implementation": kernel}
    stop = SaveOnSigterm()
    trainer = PackedTrainer(
        model=model,
        args=args,
        sources=sources,
        train_dataset=rows["train"],
        eval_dataset=rows.get("eval"),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        flops=ModelFlops.of(decoder, trained=adapter).of_tokens,
        peak_flops=here(1).peak(HALVES.get(args.mixed_precision, model_args.dtype)),
        callbacks=[MetricsFile(out / "metrics.jsonl"), stop],
    )
    console = use_console(trainer, live=not args.disable_tqdm)

    # --- Train ----------------------------------------------------------------------------------------------------
    state.wait_for_everyone()  # all have looked at the folder before one changes it
    if state.is_main_process:
        claim(out, run)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        console.close()
    if stop.stopped:
        step = trainer.state.global_step
        state.print(f"stopped by SIGTERM, saved after step {step} in {out}; the same command goes on from there")
        return EXIT_CODE

    # --- Save -----------------------------------------------------------------------------------------------------
    staged = out / STAGED
    trainer.model.config.use_cache = True
    trainer.save_finished(staged)
    if state.is_main_process:
        if trainer.model.generation_config is not None and not model_args.use_peft:
            trainer.model.generation_config.save_pretrained(staged)
        content = card(
            given,
            args,
            base,
            manifest,
            ids.record,
            summary(trainer.state, time.monotonic() - started),
            tokenizer_proof=proof,
            state=trainer.state,
            parameters=decoder.parameters,
        )
        drawn = draw(out / "metrics.jsonl", staged / CURVE)
        text = model_card(content, manifest, curve=CURVE if drawn else None)
        (staged / "README.md").write_text(text, encoding="utf-8")
        finish(out, staged, content)
    state.wait_for_everyone()
    if koala.dry_run:
        if state.is_main_process:
            shutil.rmtree(out)
        state.print("dry run: two steps on a shrunk model went well, and nothing is left of them")
        return 0
    state.print(f"wrote {out}; next: python -m convert {out} --out {out}-gguf")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
