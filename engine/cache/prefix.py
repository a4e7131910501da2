"""The prefix cache: blocks that earlier sequences left, found by their tokens. Knows token ids; content is opaque.

A tree of blocks: a block's place is its parent's place and its own tokens, compared one by one, so that no sequence can
ever get what belongs to other tokens. A prefix may end inside a block: keys and values depend on earlier tokens alone.
Where layers keep a state of fixed size, a prefix can only end where a snapshot of that state was stored.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Content of a block."""

    @property
    def num_bytes(self) -> int:
        """Bytes in memory."""


_AHEAD_BLOCKS = 16  # read at once from the slower tier: bounds what is in memory beside the contents

SizedT = TypeVar("SizedT", bound=Sized)


@dataclass(eq=False, slots=True)
class Block(Generic[SizedT]):
    """Some tokens after the parent's, with their keys and values; or a snapshot of the state behind these tokens.

    content: None while only the slower tier has it
    stored: the slower tier has it, or is about to
    snapshots: states behind tokens that follow this block; they have no children
    """

    tokens: tuple[int, ...]
    parent: "Block[SizedT] | None"
    content: SizedT | None = None
    stored: bool = False
    children: dict[int, list["Block[SizedT]"]] = field(default_factory=dict)
    snapshots: list["Block[SizedT]"] = field(default_factory=list)
    is_snapshot: bool = False

    @property
    def path(self) -> list["Block[SizedT]"]:
        """This block and those before it, the first one first; the root is none of them."""
        if self.parent is None:
            return []
        return [*self.parent.path, self]


class Tier(Protocol[SizedT]):
    """A slower place for blocks."""

    def write(self, block: Block[SizedT]) -> None:
        """Keep a copy of the block's content, at some time soon."""

    def read(self, block: Block[SizedT]) -> SizedT | None:
        """The content, or None when it is gone or damaged."""

    def read_ahead(self, blocks: Sequence[Block[SizedT]]) -> None:
        """Begin to read what will be asked for next."""

    def close(self) -> None:
        """Write what is still to be written."""

    @property
    def num_damaged(self) -> int:
        """Copies that were refused."""


@dataclass(frozen=True, slots=True)
class Match(Generic[SizedT]):
    """The part of a sequence that the prefix cache has.

    contents, counts: contents in order, and how many tokens of each are the sequence's
    stored_token: what is stored where the sequence goes another way; None when nothing is
    state: the snapshot behind these tokens, in models that need one
    reach: tokens whose keys and values are stored, whether a state is or not
    """

    contents: tuple[SizedT, ...] = ()
    counts: tuple[int, ...] = ()
    stored_token: int | None = None
    state: SizedT | None = None
    reach: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that need not be computed."""
        return sum(self.counts)


class PrefixStore(Generic[SizedT]):
    """Blocks under a byte budget: the least recently used go first, children before their parents.

    limit_bytes: of content in memory; 0 keeps nothing
    block_tokens: tokens of a full block; only full blocks have children
    needs_state: a prefix is of use only where a snapshot of the state is stored
    """

    def __init__(
        self, limit_bytes: int, block_tokens: int, tier: Tier[SizedT] | None = None, *, needs_state: bool = False
    ) -> None:
        self.limit_bytes = limit_bytes
        self.needs_state = needs_state
        self.block_tokens = block_tokens
        self.num_bytes = 0
        self._tier = tier
        self._root: Block[SizedT] = Block((), None)
        # Content in memory, least recently used first. A block is moved to the end before its parent is: what comes
        # first has no child in memory.
        self._recent: OrderedDict[Block[SizedT], None] = OrderedDict()

    @property
    def num_blocks(self) -> int:
        """Blocks in memory."""
        return len(self._recent)

    def find(self, tokens: Sequence[int], most: int) -> Match[SizedT]:
        """The longest stored prefix of these tokens, of at most `most`, that a sequence can go on from."""
        if not self.needs_state:
            return self._find(tokens, most)
        reach, limit = self._num_covered(tokens, most), most
        while (snapshot := self._deepest(tokens, limit)) is not None:
            depth, block = snapshot
            match = self._find(tokens, depth)
            if match.num_tokens == depth and (state := self._read(block)) is not None:
                self._touch(block)
                self._evict()
                return replace(match, state=state, reach=reach)
            limit = depth - 1
        return Match(reach=reach)

    def _find(self, tokens: Sequence[int], most: int) -> Match[SizedT]:
        """The longest stored prefix of these tokens, of at most `most`, whatever state there is."""
        found: list[tuple[Block[SizedT], int]] = []
        unread = self._unread(tokens, most)
        block, start = self._root, 0
        differing: int | None = None
        while start < most and (nearest := _nearest(block, tokens[start : start + self.block_tokens])) is not None:
            block, shared = nearest
            if shared < len(block.tokens):
                differing = block.tokens[shared]
            shared = min(shared, most - start)
            if self._tier is not None and unread and block is unread[0]:
                self._tier.read_ahead(unread[:_AHEAD_BLOCKS])
                del unread[:_AHEAD_BLOCKS]
            if not shared or self._read(block) is None:
                break
            found.append((block, shared))
            start += shared
            if shared < self.block_tokens:
                break
        if found:
            self._touch(found[-1][0])
        contents = tuple(block.content for block, _ in found if block.content is not None)
        self._evict()
        return Match(contents, tuple(shared for _, shared in found), differing, reach=start)

    def cached_tokens(self, tokens: Sequence[int], most: int) -> int:
        """The length of the match that `find` would return. Reads nothing, and is no use of what is stored."""
        if not self.needs_state:
            return self._num_covered(tokens, most)
        snapshot = self._deepest(tokens, most)
        return 0 if snapshot is None else snapshot[0]

    def _num_covered(self, tokens: Sequence[int], most: int) -> int:
        """Tokens whose keys and values are stored, from the first one on."""
        block, start = self._root, 0
        while start < most and (nearest := _nearest(block, tokens[start : start + self.block_tokens])) is not None:
            block, shared = nearest
            start += min(shared, most - start)
            if shared < self.block_tokens:
                break
        return start

    def missing(self, tokens: Sequence[int], start: int, end: int) -> Iterator[tuple[int, int]]:
        """Spans (start, end) of the blocks of `tokens[:end]` that are not stored, from the block of `start` on."""
        for first in range(start - start % self.block_tokens, end, self.block_tokens):
            last = min(first + self.block_tokens, end)
            if self._walk(tokens[:last]) is None:
                yield first, last

    def add(self, tokens: Sequence[int], content: SizedT) -> Block[SizedT] | None:
        """Store the block that ends these tokens; nothing when one before it is gone, or nothing fits."""
        start = self._block_start(tokens)
        parent = self._walk(tokens[:start])
        if parent is None or content.num_bytes > self.limit_bytes:
            return None
        self._forget_beginnings(parent, tokens[start:])
        block = Block(tuple(tokens[start:]), parent, content)
        self._attach(block)
        self.num_bytes += content.num_bytes
        self._touch(block)
        self._evict()
        return block

    def lacks_state(self, tokens: Sequence[int]) -> bool:
        """True when no snapshot of the state behind exactly these tokens is stored, and one could be."""
        parent = self._walk(tokens[: self._block_start(tokens)])
        return (
            self.needs_state and parent is not None and _snapshot(parent, tokens[self._block_start(tokens) :]) is None
        )

    def add_state(self, tokens: Sequence[int], content: SizedT) -> Block[SizedT] | None:
        """Store a snapshot of the state behind these tokens; nothing when a block before is gone, or nothing fits."""
        start = self._block_start(tokens)
        parent = self._walk(tokens[:start])
        if parent is None or content.num_bytes > self.limit_bytes or _snapshot(parent, tokens[start:]) is not None:
            return None
        block = Block(tuple(tokens[start:]), parent, content, is_snapshot=True)
        self._attach(block)
        self.num_bytes += content.num_bytes
        self._touch(block)
        self._evict()
        return block

    def adopt(self, path: Sequence[tuple[int, ...]], *, is_snapshot: bool = False) -> Block[SizedT] | None:
        """Learn that the slower tier has the last of these blocks; the ones before it must be known."""
        parent = self._walk([token for tokens in path[:-1] for token in tokens])
        if parent is None:
            return None
        if is_snapshot:
            block = Block(path[-1], parent, None, stored=True, is_snapshot=True)
            self._attach(block)
            return block
        if _child(parent, path[-1]) is not None:
            return None
        block = Block(path[-1], parent, None, stored=True)
        self._attach(block)
        return block

    def discard(self, block: Block[SizedT]) -> None:
        """Forget a block and all that follow it, as when its content turns out not to exist."""
        for child in [*block.snapshots, *(child for same in block.children.values() for child in same)]:
            self.discard(child)
        if block.is_snapshot and block.parent is not None:
            self._release(block)
            if block in block.parent.snapshots:
                block.parent.snapshots.remove(block)
            return
        if block.parent is None or block not in block.parent.children.get(block.tokens[0], []):
            return
        self._release(block)
        same = block.parent.children[block.tokens[0]]
        same.remove(block)
        if not same:
            del block.parent.children[block.tokens[0]]

    def keep_on_disk(self, block: Block[SizedT]) -> None:
        """Hand a block whose content is computed to the slower tier."""
        if self._tier is not None and block.content is not None and not block.stored:
            block.stored = True
            self._tier.write(block)

    def close(self) -> None:
        """Let the slower tier finish its work."""
        if self._tier is not None:
            self._tier.close()

    @property
    def num_damaged(self) -> int:
        """Copies in the slower tier that were refused."""
        return 0 if self._tier is None else self._tier.num_damaged

    def _read(self, block: Block[SizedT]) -> SizedT | None:
        """The content, from the slower tier if need be; a block that cannot be read is forgotten."""
        if block.content is None and self._tier is not None:
            block.content = self._tier.read(block)
            if block.content is None:
                self.discard(block)
            else:
                self.num_bytes += block.content.num_bytes
        return block.content

    def _unread(self, tokens: Sequence[int], most: int) -> list[Block[SizedT]]:
        """The blocks of the longest stored prefix that only the slower tier has."""
        unread: list[Block[SizedT]] = []
        block, start = self._root, 0
        while start < most and (nearest := _nearest(block, tokens[start : start + self.block_tokens])) is not None:
            block, shared = nearest
            if not shared:
                break
            if block.content is None:
                unread.append(block)
            if shared < self.block_tokens:
                break
            start += shared
        return unread

    def _walk(self, tokens: Sequence[int]) -> Block[SizedT] | None:
        block = self._root
        for start in range(0, len(tokens), self.block_tokens):
            child = _child(block, tokens[start : start + self.block_tokens])
            if child is None:
                return None
            block = child
        return block

    def _block_start(self, tokens: Sequence[int]) -> int:
        """The position at which the block of the last of these tokens begins."""
        return (len(tokens) - 1) // self.block_tokens * self.block_tokens

    def _deepest(self, tokens: Sequence[int], most: int) -> tuple[int, Block[SizedT]] | None:
        """The snapshot behind the most of these tokens whose keys and values are stored, and how many they are."""
        deepest: tuple[int, Block[SizedT]] | None = None
        block, start = self._root, 0
        while start < most:
            nearest = _nearest(block, tokens[start : start + self.block_tokens])
            shared = 0 if nearest is None else min(nearest[1], most - start)
            fitting = [
                each for each in block.snapshots if each.tokens == tuple(tokens[start : start + len(each.tokens)])
            ]
            fitting = [each for each in fitting if len(each.tokens) <= shared]
            if fitting:
                longest = max(fitting, key=lambda each: len(each.tokens))
                deepest = start + len(longest.tokens), longest
            if nearest is None or shared < self.block_tokens:
                break
            block, start = nearest[0], start + shared
        return deepest

    def _attach(self, block: Block[SizedT]) -> None:
        if block.parent is not None and block.is_snapshot:
            block.parent.snapshots.append(block)
        elif block.parent is not None:
            block.parent.children.setdefault(block.tokens[0], []).append(block)

    def _forget_beginnings(self, parent: Block[SizedT], tokens: Sequence[int]) -> None:
        """A last block that the new one contains has nothing of its own."""
        for other in list(parent.children.get(tokens[0], [])):
            if len(other.tokens) < self.block_tokens and tuple(tokens[: len(other.tokens)]) == other.tokens:
                self.discard(other)

    def _touch(self, block: Block[SizedT]) -> None:
        for each in reversed(block.path):
            if each.content is not None:
                self._recent[each] = None
                self._recent.move_to_end(each)

    def _evict(self) -> None:
        while self.num_bytes > self.limit_bytes:
            block = next(iter(self._recent))
            if block.stored:
                self._release(block)
            else:
                self.discard(block)

    def _release(self, block: Block[SizedT]) -> None:
        if block.content is not None:
            self.num_bytes -= block.content.num_bytes
            block.content = None
            self._recent.pop(block, None)


def _child(parent: Block[SizedT], tokens: Sequence[int]) -> Block[SizedT] | None:
    """The child with exactly these tokens, or one that begins with them."""
    wanted = tuple(tokens)
    return next((each for each in parent.children.get(wanted[0], []) if each.tokens[: len(wanted)] == wanted), None)


def _snapshot(parent: Block[SizedT], tokens: Sequence[int]) -> Block[SizedT] | None:
    """The snapshot behind exactly these tokens after the parent's."""
    return next((each for each in parent.snapshots if each.tokens == tuple(tokens)), None)


def _nearest(parent: Block[SizedT], tokens: Sequence[int]) -> tuple[Block[SizedT], int] | None:
    """The child that shares the most tokens, and how many; any child when none shares one."""
    children = parent.children.get(tokens[0], []) if tokens else []
    shared = [(_num_shared(each.tokens, tokens), each) for each in children]
    if shared:
        most, child = max(shared, key=lambda pair: pair[0])
        return child, most
    other = next((each for same in parent.children.values() for each in same), None)
    return None if other is None else (other, 0)


def _num_shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    for number, (our, their) in enumerate(zip(ours, theirs, strict=False)):
        if our != their:
            return number
    return min(len(ours), len(theirs))
