"""Checkpoints of parameters that are cut among processes: a folder each, written in the background by all of them.

step-0000001200.dcp/.metadata, __0_0.distcp, ...   torch's distributed checkpoint; any number of processes reads it
step-0000001200.dcp/complete.json                  `Completion`, written last: without it the folder is not a checkpoint
kept-0000001200.dcp/                               a checkpoint of one of the order's `keep_steps`; never deleted
damaged-0000001200.dcp/                            a checkpoint that did not match its checksums, set aside
"""

from __future__ import annotations

import pickle
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch.distributed as dist
from torch import Tensor

from plm_scaling.core.errors import CheckpointError, RecordError
from plm_scaling.core.files import sha256_file
from plm_scaling.core.records import Record
from plm_scaling.training.checkpoint import KEPT, LoopState
from plm_scaling.training.engine import OnDamage
from plm_scaling.training.world import World

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

__all__ = ["Completion", "ShardedCheckpoints"]

_SUFFIX, _MARK, _INDEX = ".dcp", "complete.json", ".metadata"
_INDEX_MADE_OF: Final = {
    "torch.distributed.checkpoint.metadata": {
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "float32"},
    "pathlib": {"PosixPath"},
}
"""All that an index of float32 tensors refers to."""


class Completion(Record):
    """What marks a checkpoint as whole."""

    SCHEMA_VERSION: ClassVar[int] = 1

    state: LoopState
    sha256: dict[str, str]
    """Of every file of the folder, by name."""


class ShardedCheckpoints:
    """Writes and reads the checkpoints of one run; every process has one and calls it in step with the others.

    Parameters
    ----------
    world : the processes; a process group has to exist.
    keep_steps : steps whose checkpoints are copied, to stay when the last two are all that is left.
    """

    def __init__(self, world: World, keep_steps: tuple[int, ...] = ()) -> None:
        self.world, self.keep_steps = world, keep_steps
        # Saving goes on beside training: with one group for both, their messages would be taken for each other.
        self._group = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, folder: Path, state: LoopState, tensors: dict[str, Tensor]) -> None:
        """Copy the state to host memory and begin to write it; waits for what was begun before."""
        from torch.distributed.checkpoint.filesystem import FileSystemWriter
        from torch.distributed.checkpoint.state_dict_saver import async_save

        self.settle()
        path = folder / f"step-{state.step:010d}{_SUFFIX}"
        writing = async_save(tensors, storage_writer=FileSystemWriter(path), process_group=self._group)
        assert isinstance(writing, Future)
        self._pending = self._thread.submit(self._complete, writing, path, state)

    def settle(self) -> None:
        """Wait until the checkpoint that was begun is whole, for all processes."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
            self.world.totals([0])  # none may leave, and be taken for lost, before the mark is written

    def _complete(self, writing: Future[Any], path: Path, state: LoopState) -> None:
        """Each process reads back what it wrote; the first writes the mark when all have."""
        writing.result()
        names = [file.name for file in path.glob(f"__{self.world.rank}_*")]
        own = {name: sha256_file(path / name) for name in names + [_INDEX] * self.world.first}
        parts: list[dict[str, str]] = [{}] * self.world.size
        dist.all_gather_object(parts, own, group=self._group)
        if self.world.first:
            Completion(state=state, sha256={k: v for part in parts for k, v in part.items()}).write(path / _MARK)
            if state.step in self.keep_steps:
                shutil.copytree(path, path.with_name(path.name.replace("step-", "kept-")), dirs_exist_ok=True)
            for old in sorted(mark.parent for mark in path.parent.glob(f"step-*{_SUFFIX}/{_MARK}"))[:-KEPT]:
                (old / _MARK).unlink()  # first: half a folder must not pass for a checkpoint
                shutil.rmtree(old)

    def load_newest(self, folder: Path, tensors: dict[str, Tensor], on_damage: OnDamage) -> LoopState | None:
        """Fill `tensors` from the newest checkpoint that is whole; None if there is none.

        What a killed run left unfinished is removed; what is damaged is set aside.

        Raises
        ------
        CheckpointError : it is whole, but of a model with other parameters.
        """
        for path in self._candidates(folder):
            try:
                done = self._check(path)
            except CheckpointError as error:
                on_damage(error)
                if self.world.first:
                    aside = path.with_name(path.name.replace("step-", "damaged-"))
                    shutil.rmtree(aside, ignore_errors=True)
                    path.rename(aside)
                continue
            self._read(path, tensors)
            return done.state
        return None

    def _candidates(self, folder: Path) -> list[Path]:
        """Folders with a mark, newest first, as the first process sees them."""
        names: list[list[str]] = [[]]
        if self.world.first:
            for path in sorted(folder.glob(f"step-*{_SUFFIX}"), reverse=True):
                if (path / _MARK).is_file():
                    names[0].append(path.name)
                else:
                    print(f"{path}: was not finished, passed over", file=sys.stderr, flush=True)
                    shutil.rmtree(path)
        dist.broadcast_object_list(names, src=0, group=self._group)
        return [folder / name for name in names[0]]

    def _check(self, path: Path) -> Completion:
        """The mark of a folder; the processes share the work of checking its files.

        Raises
        ------
        CheckpointError : in all processes, if one of them found a fault.
        """
        done, fault = None, ""
        try:
            done = Completion.read(path / _MARK)
            for name in sorted(done.sha256)[self.world.rank :: self.world.size]:
                if sha256_file(path / name) != done.sha256[name]:
                    fault = f"{name} does not match its checksum"
        except (RecordError, OSError) as error:
            fault = str(error)
        if self.world.any(bool(fault)) or done is None:
            why = fault or "another process found the fault"
            raise CheckpointError("a checkpoint that was damaged after it was written", where=str(path), why=why)
        return done

    def _read(self, path: Path, tensors: dict[str, Tensor]) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.distributed.checkpoint.state_dict_loader import load

        class Reader(FileSystemReader):
            """Reads the index, which is a pickle, without running what it might hold."""

            def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
                with (path / _INDEX).open("rb") as handle:
                    index: Metadata = _IndexUnpickler(handle).load()
                return index

        try:
            load(tensors, storage_reader=Reader(path), process_group=self._group)
        except CheckpointException as error:
            reasons = {str(reason) for reason, _ in error.failures.values()}
            raise CheckpointError(
                "the checkpoint does not fit this model", where=str(path), why="; ".join(sorted(reasons))
            ) from None


class _IndexUnpickler(pickle.Unpickler):
    """Knows the names that an index is made of, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in _INDEX_MADE_OF.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in the index of a checkpoint")
        return super().find_class(module, name)
