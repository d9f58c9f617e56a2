"""The conversion of an adapter alone: llama.cpp's adapter file, proven beside a GGUF of its base."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets_cfg.digest import file_digest
from datasets_cfg.errors import BadInput

from .adapter_gguf import check_expressible, write_adapter_gguf
from .adapter_merge import Merged, merged
from .choose import CONTEXT
from .compare import Question
from .conversion import HELD_OUT_CONVERSATIONS, question_for
from .file_types import UNQUANTIZED, chosen_types
from .intermediate import prove_vocabulary, write_intermediate
from .model import Model, open_model
from .options import Options
from .passages import conversations, mixture_name
from .progress import Step, progress_steps
from .publish import publish
from .report import FileReport, Proof, Report, print_report
from .source import check_apart, open_source
from .verdict import Speed
from .verification import compare_with_transformers, unquantized_limits
from .weights_digest import checkpoint_digest
from .work_folder import work_folder


def convert_adapter(options: Options) -> Report:
    """Convert an adapter to llama.cpp's adapter file, which appears when it is complete and verified.

    Raises:
        BadInput: it is not an adapter, or it does what an adapter file cannot say.
        VerificationFailed: base and adapter in llama.cpp are not the same model as in transformers.
    """
    file_type, *more = chosen_types(options.types or ("F32",))
    if more or file_type not in UNQUANTIZED:
        raise BadInput(
            f"--quantize {' '.join(options.types)}: an adapter file is one of {', '.join(UNQUANTIZED)}; quantize its "
            "base instead"
        )
    unused = {"--imatrix": options.imatrix, "--ram": options.ram, "--split-max-size": options.split_max_size}
    for option, value in unused.items():
        if value is not None:
            raise BadInput(f"{option}: an adapter file is small and not quantized; leave the option out")
    source = open_source(options.model, base=options.base, revision=options.revision, quiet=options.quiet)
    if source.adapter is None or source.base is None:
        raise BadInput(f"--adapter-only: {source.folder} is a whole model, not a PEFT adapter; leave the option out")
    fitted = merged(source.base, source.adapter, exact=True)
    check_expressible(fitted)
    # The base with the adapter's own tokenizer and template, as it is talked to.
    model = open_model(replace(source, checkpoint=source.base), name=options.name)
    check_apart(options.out, source)
    rows = []
    if options.mixture and options.verify:
        rows = conversations(options.mixture, "eval", most=HELD_OUT_CONVERSATIONS)
    question = question_for(model, options.mixture, rows) if options.verify else None
    step = progress_steps(quiet=options.quiet)
    with work_folder(options.out, overwrite=options.overwrite) as work:
        path = work / f"{model.name}-lora-{file_type}.gguf"
        weights = source.adapter.weights
        parameters = sum(math.prod(tensor.shape) for tensor in weights.tensors.values())
        with step(f"write {file_type}", parameters * (4 if file_type == "F32" else 2)) as advance:
            write_adapter_gguf(
                path,
                file_type,
                fitted,
                model.plans,
                model.config,
                model.provenance,
                name=model.name,
                verified=options.verify,
                advance=advance,
            )
        proof, speed = None, None
        if question:
            proof, speed = _verify(
                path, file_type, fitted, model, question, rows, work, threads=options.threads, step=step
            )
        size = path.stat().st_size
        file = FileReport(
            file_type=file_type,
            names=[path.name],
            size=size,
            bits_per_weight=8 * size / parameters,
            ram=None,
            sha256=[file_digest(path)] if proof else [],
            divergence=None,
            limits=None,
            speed=speed,
        )
        report = Report(
            name=model.name,
            architecture=f"LoRA adapter of a {model.config.architectures[0]}",
            parameters=parameters,
            checkpoint_type=next(iter(weights.tensors.values())).dtype,
            weights_sha256=checkpoint_digest(weights),
            tokenizer=f"{model.fields.model} ({model.fields.pre})",
            proof=proof,
            files=[file],
            context=CONTEXT,
            mixture=mixture_name(options.mixture) if rows else None,
            notes=model.notes,
            threads=options.threads,
        )
        publish(report, {}, work, options.out, prefix=f"{model.name}-lora-")
    if not options.quiet:
        print_report(report)
        print(f"Next: llama-cli -m BASE.gguf --lora {shlex.quote(str(options.out / path.name))}")
    return report


def _verify(
    path: Path,
    file_type: str,
    fitted: Merged,
    model: Model,
    question: Question,
    rows: Sequence[Mapping[str, Any]],
    work: Path,
    *,
    threads: int,
    step: Step,
) -> tuple[Proof, Speed]:
    """Hold base and adapter in llama.cpp to the merged model in transformers."""
    prove_vocabulary(model, question, work, threads=threads)
    base, _ = write_intermediate(model, work, verified=False, step=step)
    proof, _, answer = compare_with_transformers(
        model,
        fitted,
        question,
        rows,
        base,
        label=f"{model.file_type} base with the {file_type} adapter",
        allowed=unquantized_limits(model.config, model.file_type, file_type),
        adapter=path,
        threads=threads,
        step=step,
    )
    return proof, answer.speed
