"""Data sets on the Hugging Face hub: fetched file by file into the hub's own cache, then read from there in a stream.

Covered: named splits of configs, as `datasets` finds them; data sets with a loading script, by the files that they
name; a cache that was filled before (also by `hf download`), read without a network where HF_HUB_OFFLINE=1 says so. A
source with a `limit` is read over the network without fetching whole files. Memory holds a batch of rows, whatever the
size of the set. Not covered: running loading scripts; reading an older copy when the hub is away and nobody said so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tasks.errors import UnreadableSource

Row = dict[str, Any]


def hub_rows(name: str, config: str | None, split: str, revision: str | None, *, files: Sequence[str] = (),
             limit: int | None = None) -> Iterator[Row]:  # fmt: skip
    """The rows of a split, in order; UnreadableSource says what is wrong and how to mend it.

    `files` are patterns of the files to read, which then are the split, whatever the set says of itself.
    """
    import datasets  # slow to import, as the others here: needed only where a recipe names a hub
    import pyarrow as pa
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # of the HTTP library that this version of it uses

    try:
        if files or constants.HF_HUB_OFFLINE:
            yield from _snapshot_rows(name, config, split, revision, files, offline=constants.HF_HUB_OFFLINE)
        else:
            yield from _fetched_rows(name, config, split, revision, whole=limit is None)
    except (OSError, ValueError, KeyError, RuntimeError, HTTPError, pa.ArrowException,
            datasets.exceptions.DatasetsError) as fault:  # fmt: skip
        told = " ".join(str(fault).split())[:300] or type(fault).__name__
        raise UnreadableSource(f"data set {name} can't be read from the hub: {told}; {_remedy(fault)}") from fault


def _fetched_rows(name: str, config: str | None, split: str, revision: str | None, *, whole: bool) -> Iterator[Row]:
    """What `datasets` finds under these names; the split's files are fetched first if they are wanted whole."""
    import datasets
    from huggingface_hub import hf_hub_download

    builder = datasets.load_dataset_builder(name, config, revision=revision)
    found: Any = builder.config.data_files
    if split not in found:
        raise _NotThere("split", split, list(map(str, found)))
    if whole:
        local = []
        for url in found[split]:  # hf://datasets/OWNER/NAME@COMMIT/PATH
            commit, _, path = url.partition("@")[2].partition("/")
            local.append(hf_hub_download(name, path, repo_type="dataset", revision=commit))
        builder.config.data_files = {split: local}
    yield from builder.as_streaming_dataset(split=split)


def _snapshot_rows(name: str, config: str | None, split: str, revision: str | None, files: Sequence[str], *,
                   offline: bool) -> Iterator[Row]:  # fmt: skip
    """Files of one commit in the hub's cache; without `files`, those that the data set's card gives the split."""
    import datasets
    from huggingface_hub import snapshot_download

    patterns = list(files) or None
    folder = Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns,
                                    local_files_only=offline))  # fmt: skip
    patterns = patterns or _patterns_of(folder, config, split)
    data = None
    if patterns is not None:
        there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        chosen = [path for path in there if any(fnmatch(path, pattern) for pattern in patterns)]
        if not chosen:
            raise FileNotFoundError(f"no file {' or '.join(patterns)} in {'the cache' if offline else 'the data set'}; "
                                    f"found {', '.join(there[:8]) or 'nothing'}")  # fmt: skip
        data = {split: chosen}
    yield from datasets.load_dataset(str(folder), data_files=data, split=split, streaming=True)


def _patterns_of(folder: Path, config: str | None, split: str) -> list[str] | None:
    """The file patterns of a split by the card's `configs`; None where the card has none, and names of files tell."""
    from huggingface_hub import DatasetCard

    card = folder / "README.md"
    configs = (DatasetCard.load(card).data.get("configs") if card.exists() else None) or []
    if not configs:
        return None
    names = [str(one["config_name"]) for one in configs]
    if config is None and "default" not in names and len(names) > 1:
        config = next((str(one["config_name"]) for one in configs if one.get("default")), None)
    wanted = config or ("default" if "default" in names else names[0] if len(names) == 1 else None)
    chosen: Any = next((one for one in configs if one["config_name"] == wanted), None)
    if chosen is None:
        raise _NotThere("config", config, names)
    return _split_patterns(chosen, split)


def _split_patterns(config: Row, split: str) -> list[str] | None:
    """From `data_files`: a pattern or several (which are the train split), or {split, path} for each split."""
    listed = config.get("data_files")
    if listed is None:
        return [f"{config['data_dir'].strip('/')}/*"] if config.get("data_dir") else None
    listed = [listed] if isinstance(listed, str) else listed
    by_split: dict[str, list[str]] = {}
    for one in listed:
        named, paths = (one["split"], one["path"]) if isinstance(one, dict) else ("train", one)
        by_split.setdefault(named, []).extend([paths] if isinstance(paths, str) else paths)
    if split not in by_split:
        raise _NotThere("split", split, list(by_split))
    start = f"{config['data_dir'].strip('/')}/" if config.get("data_dir") else ""
    return [start + path for path in by_split[split]]


class _NotThere(ValueError):
    """A split or config that the data set doesn't have."""

    def __init__(self, what: str, asked: str | None, found: list[str]) -> None:
        super().__init__(f"no {what} {asked!r}; found: {', '.join(sorted(found))}")
        self.what = what


def _remedy(fault: Exception) -> str:
    """What to do about it."""
    from huggingface_hub import constants, errors

    text = str(fault)
    if isinstance(fault, errors.GatedRepoError) or "gated dataset" in text:
        return "ask for access on its page, then log in (`hf auth login`, or HF_TOKEN)"
    if constants.HF_HUB_OFFLINE and not isinstance(fault, _NotThere):
        return "HF_HUB_OFFLINE is set, so that only the cache is read; fetch it where there is a network"
    if "Revision" in text and "exist" in text:
        return "check `revision`"
    if isinstance(fault, errors.RepositoryNotFoundError) or "doesn't exist on the Hub" in text:
        return "check its name; if it is private, log in (`hf auth login`, or HF_TOKEN)"
    if isinstance(fault, _NotThere):
        return f"set `{fault.what}` to one of them"
    if "onfig" in text and isinstance(fault, ValueError):  # as `datasets` says it, with the names that there are
        return "set `config` to one of them"
    if "scripts are no longer supported" in text:
        return "set `files` to the data files that it holds, or download them and give them as files"
    if isinstance(fault, ConnectionError | errors.HTTPError):
        return ("is there a network? Run it again: files that came whole are kept; HF_HUB_OFFLINE=1 reads "
                "the cache only")  # fmt: skip
    return "look at its files, or download them and give them as files"
