"""The engine's end of the prefix cache: states read into slots when a request begins, written when nobody waits.

    restore          at admission: the stored prefix that saves most, if it saves more than reading it takes
    computed         after each piece of a prompt: learns the speed; writes a checkpoint of a long prompt now and then
    offer, write     a request is over: its slot is written as soon as the engine is idle

Copying cells is a native call and runs on the model's thread, between two computations; whoever wants to change the
cells waits for it (`settle`). Checksum, sync and renaming follow on a thread that nobody waits for but `close`. Nothing
here fails a request: a disk that is full or a file that is damaged means that tokens are computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from qwenctl.services.kv_cache import KvCache
from qwenctl.services.kv_slots import Slot
from qwenctl.services.native_model import NativeModel
from qwenctl.services.native_thread import NativeThread
from qwenctl.services.prefill_speed import PrefillRates, PrefillSpeed
from qwenctl.services.prefix_cache import worth
from qwenctl.services.prefix_cache.entry_file import BadEntry, Entry, EntryRecord, check_state
from qwenctl.services.prefix_cache.memory_only import MemoryOnly
from qwenctl.services.prefix_cache.prefix_store import Match, PrefixStore
from qwenctl.services.prefix_cache.state_key import StateKey, state_key
from qwenctl.services.step_plan import Chunk

_PREFILL_TOKENS = 16  # fewer in a chunk say little about the speed of prompts
_RECORD_BYTES = 4096  # more than a record takes


class _Write:
    """A state on its way to the disk: copied on the model's thread, completed on one of its own.

    Args:
        thread: the model's.
        copy: writes the file; returns its bytes.
        complete: gets them, 0 where copying failed.
    """

    def __init__(self, thread: NativeThread, copy: Callable[[], int], complete: Callable[[int], None]) -> None:
        self._copy, self._n_bytes = copy, 0
        self.completing = threading.Thread(target=lambda: complete(self._n_bytes), name="prefix cache", daemon=True)
        self.copied = thread.post(self._run)

    def _run(self) -> None:
        try:
            self._n_bytes = self._copy()
        finally:
            self.completing.start()


class DiskPrefixes(MemoryOnly):
    """The prefix cache of one opened model. One thread calls; the model's and one of its own do the work.

    Args:
        model: the opened model.
        thread: its thread.
        store: the folder.
        clock: the engine's, by which prompts are timed; the disk is timed by the system's.
    """

    def __init__(
        self, model: NativeModel, thread: NativeThread, store: PrefixStore, clock: Callable[[], float]
    ) -> None:
        self._model, self._thread, self._store, self._clock = model, thread, store, clock
        self._speed = PrefillSpeed()
        self._began_s = 0.0
        self._key: StateKey | None = None
        self._read_bytes_s, self._write_bytes_s = worth.READ_BYTES_S, worth.WRITE_BYTES_S
        self._offered: dict[int, tuple[Slot, int]] = {}
        self._unsaved_s: dict[int, float] = {}  # slot → what its prompt took since it was admitted or written
        self._writes: list[_Write] = []

    def restore(self, cache: KvCache, slot: Slot, prompt: Sequence[int]) -> int:
        """Read the best stored prefix of `prompt` into `slot`, if that pays.

        Returns:
            The tokens that the slot now holds from the disk; 0: it is as it was, or empty where reading failed.
        """
        self._unsaved_s[slot.index] = 0.0
        if len(prompt) - len(slot.tokens) <= worth.MIN_TOKENS:
            return 0
        match = self._best(prompt[: len(prompt) - 1])  # the last token is computed, for logits to exist
        if match is None or not self._load_pays(match, len(slot.tokens)):
            return 0
        entry = match.entry
        if not cache.has_room_for(slot, len(entry.tokens)):
            return 0
        began_s = time.monotonic()
        if not self._is_sound(entry):
            return 0
        if not cache.replace(slot, entry.tokens, match.n_common, lambda: self._load(slot.index, entry)):
            self._store.drop(entry)
            return 0
        self._read_bytes_s = entry.record.state_bytes / max(1e-6, time.monotonic() - began_s)
        self._store.used(entry)
        return match.n_common

    def computing(self) -> None:
        """Something is about to be computed."""
        self._began_s = self._clock()

    def computed(self, pieces: Sequence[tuple[Slot, int, Chunk]]) -> None:
        """Pieces of prompts have been computed together: a slot, the tokens of its prompt, and which ones they were."""
        seconds = self._clock() - self._began_s
        n_tokens = sum(chunk.n_tokens for _, _, chunk in pieces)
        for slot, n_prompt, chunk in pieces:
            if chunk.n_tokens >= _PREFILL_TOKENS:
                self._one_computed(slot, n_prompt, chunk, seconds * chunk.n_tokens / n_tokens)

    def offer(self, slot: Slot, n_prompt: int) -> None:
        """A request of `n_prompt` tokens is over; its slot may be worth writing as long as it holds them."""
        self._unsaved_s.pop(slot.index, None)
        self._offered[slot.index] = slot, n_prompt

    def write(self) -> None:
        """The engine is idle: begin to write what was offered and is still there."""
        offered, self._offered = self._offered, {}
        for slot, n_prompt in offered.values():
            if not slot.busy:
                self._write(slot, n_prompt, may_wait=True)

    def settle(self) -> None:
        """Wait until no slot is being copied.

        Raises:
            KeyboardInterrupt: afterwards, if waiting was interrupted.
        """
        for write in self._writes:
            self._thread.settle(write.copied)
        self._writes = [write for write in self._writes if write.completing.is_alive() or not write.copied.done]

    def close(self) -> None:
        """Wait until everything that was begun is on the disk."""
        writes, self._writes = self._writes, []
        for write in writes:
            write.completing.join()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _best(self, tokens: Sequence[int]) -> Match | None:
        key, model = self._own_key(), self._model
        most_tokens = model.n_cells if model.shares_cells else model.n_ctx
        return None if key is None else self._store.best(key, tokens, most_tokens, whole=not model.remembers_all)

    def _own_key(self) -> StateKey | None:
        """Return the model's key; None: its file is gone."""
        if self._key is None:
            try:
                self._key = state_key(self._model.path, self._model.info.name, self._model.state_layout)
            except OSError:
                return None
        return self._key

    def _load_pays(self, match: Match, n_held: int) -> bool:
        rates = self._speed.rates or PrefillRates(*match.entry.record.rates)
        saved_s = rates.seconds(n_held, match.n_common)
        state_bytes = match.entry.record.state_bytes
        return worth.load_pays(match.n_common - n_held, saved_s, state_bytes, self._read_bytes_s)

    def _is_sound(self, entry: Entry) -> bool:
        """Look at all of a file before llama.cpp does; one that is damaged is removed."""
        try:
            check_state(entry)
        except BadEntry:
            self._store.drop(entry)
            return False
        except OSError:
            return False
        return True

    def _load(self, slot: int, entry: Entry) -> bool:
        n_read = self._thread.run(lambda: self._model.load_state(slot, len(entry.tokens), entry.path))
        return n_read == entry.record.state_bytes

    # --- writing -----------------------------------------------------------------------------------------------------

    def _one_computed(self, slot: Slot, n_prompt: int, chunk: Chunk, seconds: float) -> None:
        self._speed.observe(chunk.first, chunk.n_tokens, seconds)
        unsaved_s = self._unsaved_s[slot.index] = self._unsaved_s.get(slot.index, 0.0) + seconds
        # Where nothing can be taken back, only what another prompt begins with is of use: this one, without its answer,
        # or all but its last piece, in which the question about a document stands.
        n_left = n_prompt - len(slot.tokens)
        at_border = not self._model.remembers_all and 0 <= n_left <= chunk.n_tokens
        if at_border or unsaved_s >= worth.CHECKPOINT_S:
            self._write(slot, n_prompt, may_wait=at_border)

    def _write(self, slot: Slot, n_prompt: int, *, may_wait: bool) -> None:
        """Begin to write a slot's state if it pays. `may_wait`: nobody waits for the engine."""
        self._unsaved_s[slot.index] = 0.0
        rates, key, tokens = self._speed.rates, self._own_key(), tuple(slot.tokens)
        if rates is None or key is None or len(tokens) < worth.MIN_TOKENS:
            return
        match = self._best(tokens)
        lost_s = rates.seconds(match.n_common if match else 0, len(tokens))
        if match and not match.entry.is_part_of(tokens) and lost_s < worth.LEAST_BRANCH * rates.seconds(0, len(tokens)):
            return
        state_bytes = self._model.state_bytes(slot.index, len(tokens))
        pays = worth.save_pays if may_wait else worth.checkpoint_pays
        if pays(lost_s, state_bytes, self._write_bytes_s):
            n_asked = min(n_prompt, len(tokens))
            record = EntryRecord(key.digest, key.model, len(tokens), n_asked, state_bytes, 0, *rates)
            self._begin(slot.index, key, tokens, record)

    def _begin(self, slot: int, key: StateKey, tokens: tuple[int, ...], record: EntryRecord) -> None:
        try:
            if not self._store.make_room(record.state_bytes + _RECORD_BYTES):
                return
            path = self._store.begin(key, tokens)
        except OSError:
            return
        began_s = time.monotonic()
        before = self._writes[-1].completing if self._writes else None

        def complete(n_bytes: int) -> None:
            if before is not None:
                before.join()  # in order, so that the last one sees all that it makes superfluous
            if self._published(path, record, n_bytes):
                self._write_bytes_s = n_bytes / max(1e-6, time.monotonic() - began_s)
                if self._model.remembers_all:  # else an entry serves for nothing shorter
                    self._store.drop_parts(key, tokens)

        self._writes.append(_Write(self._thread, lambda: self._model.save_state(slot, tokens, path), complete))

    def _published(self, path: Path, record: EntryRecord, n_bytes: int) -> bool:
        with suppress(BadEntry, OSError):
            if n_bytes == record.state_bytes:
                self._store.publish(path, record)
                return True
        self._store.abandon(path)
        return False
