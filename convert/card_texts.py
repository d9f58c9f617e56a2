"""What a conversion says to those who find its files: the model card, and the Modelfile for Ollama."""

import platform

from datasets_cfg.prompt import special_tokens
from datasets_cfg.versions import versions

from .architecture import context_length
from .model import Model
from .model_card import Card, CardFile, CardProof, first_choice, model_card
from .modelfile import NoModelfile, modelfile
from .publish import MODELFILE
from .report import FileReport, Report

CARD = "README.md"


def card_texts(report: Report, model: Model) -> dict[str, str]:
    """The texts by the names of their files; there is no Modelfile where Ollama could not ask the model rightly."""
    files = [_card_file(file, report) for file in report.files]
    for_ollama, reason = None, "the model has no chat template"
    if model.chat_template is not None:
        try:
            for_ollama = modelfile(
                first_choice(files).names[0],
                model.chat_template,
                special_tokens(model.tokenizer),
                add_bos=model.fields.add_bos,
            )
        except NoModelfile as error:
            reason = str(error)
    provenance = model.provenance
    card = Card(
        name=report.name,
        files=files,
        source=model.source.title,
        parameters=report.parameters,
        context=context_length(model.config),
        base_models=provenance.base_models,
        datasets=provenance.datasets,
        mixture=_text(provenance.koala.get("mixture.name")),
        mixture_digest=_text(provenance.koala.get("mixture.content_sha256")),
        languages=provenance.languages,
        license=provenance.license,
        license_name=provenance.license_name,
        license_link=provenance.license_link,
        imatrix=report.imatrix,
        proof=_card_proof(report),
        modelfile=MODELFILE if for_ollama else None,
        no_modelfile=None if for_ollama else reason,
        chat_template=model.chat_template is not None,
        versions=[f"{name} {version}" for name, version in versions("gguf", "llama-cpp-python").items() if version],
    )
    return {CARD: model_card(card), **({MODELFILE: for_ollama} if for_ollama else {})}


def _text(value: object) -> str | None:
    """A value of koala.json, which anybody may have written, if it is a text."""
    return value if isinstance(value, str) else None


def _card_file(file: FileReport, report: Report) -> CardFile:
    found = file.divergence
    # What is not compared with the unquantized file is that file.
    measured = found or (report.proof and report.proof.divergence)
    return CardFile(
        names=tuple(file.names),
        file_type=file.file_type,
        size=file.size,
        ram=file.ram,
        kld=found and found.kld,
        top1=found and found.top1,
        perplexity=measured and measured.perplexity,
        tokens_per_second=file.speed and file.speed.answer,
    )


def _card_proof(report: Report) -> CardProof | None:
    if report.proof is None:
        return None
    compared = next((file.divergence.positions for file in report.files if file.divergence), None)
    if report.mixture:
        text = f"conversations of {report.mixture} that were kept out of training, and built-in prompts"
    else:
        text = "built-in prompts with the model's own answers"
    return CardProof(
        texts=report.proof.texts,
        positions=report.proof.divergence.positions,
        held_out_tokens=compared,
        held_out=text if compared else None,
        machine=f"{report.threads} threads of a CPU ({platform.machine()})",
        reports=("report.md", "report.json"),
    )
