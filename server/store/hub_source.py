"""A model out of a Hugging Face repository: data files only, held against the hub's hashes, resumed where it stopped.

Endpoint, token and offline mode are huggingface_hub's business. Its own download begins a file anew after the process
has ended; this one goes on, which matters for files of many gigabytes. This module imports slowly.
"""

import hashlib
import logging
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from itertools import accumulate
from pathlib import Path
from time import sleep
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

# The base error of the HTTP client, whichever one this release of huggingface_hub uses.
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]  # not marked as an export
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]  # likewise

from engine.checkpoint.folder import ModelFolder
from engine.progress import Progress, Report
from server.store.errors import ModelCorrupt, ModelUnfit, PullFailed
from server.store.manifest import FileRecord
from server.store.model_files import choose, missing_file
from server.store.model_id import ModelId
from server.store.source import Delivery
from server.store.staging import FreeBytes, Staging, delete, require_space

RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0)
MAX_PAUSE_SECONDS = 30.0
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LIST_TIMEOUT_SECONDS = 10.0
_READ_TIMEOUT_SECONDS = 30.0
_MAX_FILES = 4096
_PART = ".part"
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)

Result = TypeVar("Result")


class RemoteFile(NamedTuple):
    """A file of a repository. Large files have a sha256, the others Git's hash of a blob."""

    name: str
    num_bytes: int
    sha256: str | None
    git_sha1: str | None


class HubSource:
    """A repository's main branch, or one GGUF file of it."""

    task = ""
    licence = ""

    def __init__(self, model_id: ModelId) -> None:
        self.model_id = model_id
        self.description = f"Hugging Face {model_id.repository}"

    def deliver(self, staging: Staging, report: Report, free_bytes: FreeBytes) -> Delivery:
        """Download what is missing of the current commit. What is whole already is not asked for again."""
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # retries are ours to report
        try:
            commit, files = self._listing()
            return self._download(staging.workspace(commit), commit, files, report, free_bytes)
        except (ClientError, OfflineModeIsEnabled) as error:
            raise PullFailed(_sentence(self.model_id.repository, error)) from None

    def _listing(self) -> tuple[str, list[RemoteFile]]:
        repository = self.model_id.repository
        ask = partial(HfApi().model_info, repository, files_metadata=True, timeout=_LIST_TIMEOUT_SECONDS)
        try:
            info = _patiently(ask)
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ClientError):
                raise
            raise PullFailed(f"What answers in the hub's place gives no list of files of {repository}.") from None
        siblings = {sibling.rfilename: sibling for sibling in (info.siblings or [])[:_MAX_FILES]}
        files = []
        for name in choose(siblings, repository, self.model_id.variant):
            size, lfs = siblings[name].size, siblings[name].lfs
            if size is None or size < 0:
                raise PullFailed(f"The hub does not say how large {name} of {repository} is.")
            files.append(RemoteFile(name, size, lfs.sha256 if lfs else None, siblings[name].blob_id))
        if not _COMMIT.fullmatch(info.sha or ""):
            raise PullFailed(f"The hub does not say which commit of {repository} this is.")
        return str(info.sha), files

    def _download(
        self, folder: Path, commit: str, files: list[RemoteFile], report: Report, free_bytes: FreeBytes
    ) -> Delivery:
        total_bytes = sum(file.num_bytes for file in files)
        _keep_only({name for file in files for name in (file.name, file.name + _PART)}, folder)
        have_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        require_space(folder, max(total_bytes - have_bytes, 0), free_bytes)
        starts = list(accumulate((file.num_bytes for file in files), initial=0))
        for file, start in zip(files, starts, strict=False):
            if not (folder / file.name).is_file():
                url = hf_hub_url(self.model_id.repository, file.name, revision=commit)
                _fetch(url, file, folder / file.name, _reporting(report, start, total_bytes))
        records: dict[str, FileRecord] = {}
        for file, start in zip(files, starts, strict=False):
            report(Progress("verifying", start, total_bytes, "bytes"))
            records[file.name] = _verify(folder / file.name, file)
        lacking = None if _is_gguf(files) else missing_file(ModelFolder(folder))
        if lacking is not None:
            raise ModelUnfit(self.model_id.repository, f"lacks {lacking}, which its index of weights names")
        return Delivery(folder, records)


def _is_gguf(files: list[RemoteFile]) -> bool:
    return files[0].name.lower().endswith(".gguf")


def _keep_only(names: set[str], folder: Path) -> None:
    for path in list(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            delete(path)


def _reporting(report: Report, start: int, total_bytes: int) -> Callable[[int], None]:
    return lambda now: report(Progress("downloading", start + now, total_bytes, "bytes"))


def _fetch(url: str, file: RemoteFile, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Bring a file in, from where an earlier attempt stopped, for as long as each request brings some of it."""
    part = target.with_name(target.name + _PART)
    target.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    while part.stat().st_size < file.num_bytes:
        before = part.stat().st_size
        try:
            _patiently(partial(_receive, url, file, part, on_bytes))
        except ClientError:
            if part.stat().st_size <= before:
                raise
        else:
            if part.stat().st_size <= before:
                raise PullFailed(f"The hub sends {file.name} shorter than it says.")
    part.rename(target)


def _receive(url: str, file: RemoteFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """One request for what is missing of a file, appended as it comes."""
    with part.open("ab") as output:
        have_bytes = output.tell()
        headers = {**build_hf_headers(), "accept-encoding": "identity", "range": f"bytes={have_bytes}-"}
        request = get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=_READ_TIMEOUT_SECONDS
        )
        with request as response:
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                have_bytes = 0
                output.truncate(0)
            for chunk in response.iter_bytes():
                have_bytes += len(chunk)
                if have_bytes > file.num_bytes:
                    raise PullFailed(f"The hub sends {file.name} longer than it says.")
                output.write(chunk)
                on_bytes(have_bytes)


def _verify(path: Path, file: RemoteFile) -> FileRecord:
    """Hold a file against the hub's hash; one that differs is deleted, so that the next pull fetches it anew."""
    with path.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    num_bytes = path.stat().st_size
    if file.sha256 is not None:
        good = sha256 == file.sha256
    else:
        good = file.git_sha1 is not None and _git_sha1(path) == file.git_sha1
    if not good or num_bytes != file.num_bytes:
        delete(path)
        raise ModelCorrupt(file.name, "its checksum is not the hub's; pull again")
    return FileRecord(num_bytes, sha256)


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _patiently(call: Callable[[], Result]) -> Result:
    """The call's result, tried again after pauses where hub or network only fail for now. Raises ClientError."""
    for pause in RETRY_PAUSES_SECONDS:
        try:
            return call()
        except ClientError as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in _TRANSIENT:
                raise
            sleep(max(pause, _retry_after(error)))
    return call()


def _retry_after(error: Exception) -> float:
    if not isinstance(error, HfHubHTTPError):
        return 0.0
    try:
        return min(float(error.response.headers.get("retry-after", 0)), MAX_PAUSE_SECONDS)
    except ValueError:
        return 0.0


def _sentence(repository: str, error: Exception) -> str:
    if isinstance(error, OfflineModeIsEnabled):
        return f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it."
    if isinstance(error, GatedRepoError):
        return f"{repository} is gated: accept its terms on its page, then sign in with `hf auth login`."
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no {repository}, or it is private and needs `hf auth login`."
    if not isinstance(error, HfHubHTTPError):
        return f"The hub could not be reached for {repository} ({type(error).__name__})."
    status = error.response.status_code
    reasons = {
        401: "it accepts no token, or wants another: `hf auth login`",
        403: "access is forbidden",
        429: "too many requests, try again later",
    }
    return f"The hub does not give {repository}: {reasons.get(status, 'it is failing')} (HTTP {status})."
