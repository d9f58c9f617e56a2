"""The whole conversion: open, write, quantize, verify, and only then give the files their names."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets_cfg.digest import file_digest
from datasets_cfg.errors import BadInput

from .architecture import context_length
from .calibrate import Calibration, open_calibration
from .card_texts import card_texts
from .choose import CONTEXT, choose_type, ram_needed
from .compare import Question
from .file_types import AUTO, chosen_types
from .imatrix import compute_imatrix
from .imatrix_file import ImportanceMatrix, write_imatrix
from .intermediate import prove_vocabulary, tensor_bytes, write_intermediate
from .model import Model, open_model
from .options import Options
from .passages import conversations, mixture_name
from .progress import Step, progress_steps
from .publish import publish
from .quantize import quantize, quantized_size
from .reference import make_samples
from .report import FileReport, Report, print_report
from .source import check_apart, open_source
from .split import check_split, split_gguf
from .verification import Findings, verify
from .work_folder import work_folder

_PROVEN_CONVERSATIONS = 100
"""Conversations of the mixture whose token ids are compared."""

HELD_OUT_CONVERSATIONS = 2000
"""Conversations of the mixture that are looked at for answers to predict."""

DEFAULT = ("Q8_0",)
"""Types that are made where the user names none."""


def convert(options: Options) -> Report:
    """Convert a model to one GGUF for each type; none appears before all of them are complete and verified.

    Raises:
        BadInput: the model, the types or the output folder cannot be used.
        VerificationFailed: a file is not the same model as the checkpoint.
    """
    wanted = chosen_types(options.types or DEFAULT)
    if (AUTO in wanted) != (options.ram is not None):
        raise BadInput(
            "--quantize auto and --ram go together: auto picks the best type that fits into the RAM you name"
        )
    source = open_source(options.model, base=options.base, revision=options.revision, quiet=options.quiet)
    model = open_model(source, name=options.name)
    mixture = options.mixture or (options.imatrix if options.imatrix and options.imatrix.is_dir() else None)
    rows = conversations(mixture, "eval", most=HELD_OUT_CONVERSATIONS) if mixture and options.verify else []
    check_apart(options.out, source)
    question = question_for(model, mixture, rows) if options.verify else None
    calibration = None
    if options.imatrix is not None:
        calibration = open_calibration(
            options.imatrix,
            model.tokenizer,
            tokens=options.imatrix_tokens,
            context=context_length(model.config),
        )
    step = progress_steps(quiet=options.quiet)
    if not options.quiet:
        for note in model.notes:
            print(f"note: {note}", file=sys.stderr)
    matrix_name = f"{model.name}-imatrix.gguf"
    with work_folder(options.out, overwrite=options.overwrite) as work:
        if question:
            # Before anything that takes long, as it needs no weights.
            prove_vocabulary(model, question, work, threads=options.threads)
        intermediate, digest = write_intermediate(model, work, verified=options.verify, step=step)
        if AUTO in wanted:
            wanted = _with_choice(wanted, model, intermediate, options)
        matrix = _matrix(calibration, intermediate, options.threads, step)
        made = {
            model.file_type: intermediate,
            **{name: work / f"{name}.gguf" for name in wanted if name != model.file_type},
        }
        # Quantizing comes before the slower checks, since a type that this model cannot have ends the run here.
        for file_type in wanted:
            if file_type != model.file_type:
                with step(f"quantize {file_type}", len(model.plans)) as advance:
                    quantize(
                        intermediate,
                        made[file_type],
                        file_type,
                        threads=options.threads,
                        advance=advance,
                        imatrix=matrix,
                        imatrix_name=matrix_name if matrix else None,
                    )
            if options.split_max_size is not None:
                check_split(made[file_type], options.split_max_size)
        findings = verify(model, question, rows, made, threads=options.threads, step=step) if question else None
        files = _files(model, made, wanted, findings, options, step)
        report = Report(
            name=model.name,
            architecture=model.config.architectures[0],
            parameters=_parameters(model),
            checkpoint_type=model.file_type,
            weights_sha256=digest,
            tokenizer=f"{model.fields.model} ({model.fields.pre})",
            proof=findings and findings.proof,
            files=files,
            context=min(CONTEXT, context_length(model.config)),
            mixture=mixture_name(mixture) if rows else None,
            imatrix=matrix and (", ".join(matrix.datasets) or "a file"),
            notes=model.notes,
            threads=options.threads,
        )
        if matrix:
            write_imatrix(work / matrix_name, matrix)
        publish(report, card_texts(report, model), work, options.out, more=[matrix_name] if matrix else [])
    if not options.quiet:
        print_report(report)
        print(f"Next: koala-tui {shlex.quote(str(options.out / report.files[0].names[0]))}")
    return report


def question_for(model: Model, mixture: Path | None, rows: Sequence[Mapping[str, Any]]) -> Question:
    """What the model's files are asked: the built-in texts, and conversations of a mixture.

    Args:
        model: what is converted.
        mixture: for messages.
        rows: its held-out conversations; may be empty.

    Raises:
        BadInput: the model cannot be asked in the mixture's conversations.
    """
    if rows and model.chat_template is None:
        raise BadInput(f"--mixture {mixture}: the checkpoint has no chat template for conversations; leave it out")
    samples = make_samples(model.tokenizer, model.chat_template, rows[:_PROVEN_CONVERSATIONS])
    if rows and not any(sample.of_mixture for sample in samples):
        raise BadInput(f"--mixture {mixture}: the model's chat template refuses its conversations; leave it out")
    return Question(samples, model.stop_ids, model.chat_template, model.tokenizer, model.fields.before_llama_cpp)


def _matrix(
    calibration: Calibration | ImportanceMatrix | None, intermediate: Path, threads: int, step: Step
) -> ImportanceMatrix | None:
    if not isinstance(calibration, Calibration):
        return calibration
    sequences = calibration.sequences
    with step("importance matrix", len(sequences)) as advance:
        return compute_imatrix(intermediate, sequences, threads=threads, advance=advance, datasets=[calibration.name])


def _files(
    model: Model,
    made: Mapping[str, Path],
    wanted: Sequence[str],
    findings: Findings | None,
    options: Options,
    step: Step,
) -> list[FileReport]:
    """Give the files their last names within the work folder, split them, and say what there is to say about each.

    Args:
        model: what was converted.
        made: type → file, the unquantized one among them.
        wanted: the types that were asked for.
        findings: of the verification.
        options: for the size of parts.
        step: opens a step of the progress.
    """
    parameters = _parameters(model)
    metadata_bytes = made[model.file_type].stat().st_size - tensor_bytes(model.plans, model.file_type)
    files = []
    for file_type in wanted:
        whole = made[file_type].rename(made[file_type].with_name(f"{model.name}-{file_type}.gguf"))
        size = whole.stat().st_size
        parts = _split(whole, options.split_max_size, step)
        found = findings.files[file_type] if findings else None
        files.append(
            FileReport(
                file_type=file_type,
                names=[part.name for part in parts],
                size=size,
                bits_per_weight=8 * (size - metadata_bytes) / parameters,
                ram=ram_needed(size, model.config).total,
                sha256=[file_digest(part) for part in parts] if found else [],
                divergence=found and found.divergence,
                limits=found and found.limits,
                speed=found and found.speed,
            )
        )
    return files


def _parameters(model: Model) -> int:
    return sum(math.prod(plan.shape) for plan in model.plans)


def _with_choice(wanted: list[str], model: Model, intermediate: Path, options: Options) -> list[str]:
    """The types with the one that fits in place of `auto`."""
    chosen, reckoning = choose_type(
        lambda file_type: quantized_size(intermediate, file_type), options.ram, model.config
    )
    if not options.quiet:
        print(f"auto: {reckoning}", file=sys.stderr)
    return list(dict.fromkeys(chosen if file_type == AUTO else file_type for file_type in wanted))


def _split(path: Path, max_size: int | None, step: Step) -> list[Path]:
    if max_size is None or path.stat().st_size <= max_size:
        return [path]
    with step(f"split {path.stem}", path.stat().st_size) as advance:
        parts = split_gguf(path, max_size, advance)
    path.unlink()
    return parts
