"""What is kept of published values, and what is sent of them: only what changed, and only what a holder lacks."""

import numpy as np
import pytest
from numpy.typing import NDArray
from raw_worker import plan_for, sgd

from pushpull.compression.spec import parse_codec
from pushpull.protos.shard_pb2 import ShardMessage
from pushpull.ps_server import publication
from pushpull.ps_server.blocks import BlockStore, Bundle
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.encoded_values import ValuesBuilder
from pushpull.ps_server.publication import Publisher, publisher_for
from pushpull.ps_server.published_bundle import WASTE, PublishedBundle
from pushpull.ps_server.shares import UNWANTED

SIZES = (3000, 500, 700, 64)
CODECS = ("fp32", "bf16", "int8", "topk:0.1+fp16")


class Published:
    """A shard with one bundle of four blocks."""

    def __init__(self, codec: str) -> None:
        self.store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
        self.bundle: Bundle = self.store.bundles[0]
        self.publisher: Publisher = publisher_for(JobSettings(pull_codec=codec), self.store)
        self._generator = np.random.default_rng(0)
        self.publisher.publish_initial(self.bundle)

    def change(self, *positions: int) -> None:
        for position in positions:
            block = self.store.blocks[position]
            self.store.array(block)[:] += self._generator.standard_normal(block.num_elements).astype(np.float32)
            self.store.versions[position] += 1
        self.publisher.publish(self.bundle, positions)

    def sent(self, *held: int) -> list[int]:
        """Blocks that a holder of these versions is sent."""
        return sorted(ShardMessage.FromString(self.message(*held)).values.blocks)

    def message(self, *held: int) -> bytes:
        return self.publisher.message(self.bundle, np.array(held, dtype=np.int64))


@pytest.mark.parametrize("codec", CODECS)
class TestWhatIsSent:
    def test_only_the_block_that_changed(self, codec: str) -> None:
        published = Published(codec)
        for version in range(3):
            published.change(2)
            assert published.sent(0, 0, version, 0) == [2]
        assert len(published.message(0, 0, 2, 0)) < 4 * SIZES[2] + 200

    def test_blocks_that_changed_at_different_times(self, codec: str) -> None:
        published = Published(codec)
        published.change(0)
        published.change(1, 2)
        published.change(2)
        assert published.sent(1, 1, 1, 0) == [2]
        assert published.sent(0, 0, 0, 0) == [0, 1, 2]
        assert published.sent(1, 0, 1, 0) == [1, 2]
        assert published.sent(0, 1, 2, 0) == [0]
        assert published.sent(-1, 1, 2, 0) == [0]

    def test_who_holds_nothing_gets_everything_it_wants(self, codec: str) -> None:
        published = Published(codec)
        published.change(1)
        assert published.sent(-1, -1, -1, -1) == [0, 1, 2, 3]
        assert published.sent(-1, UNWANTED, -1, UNWANTED) == [0, 2]

    def test_all_who_hold_the_version_before_share_one_message(self, codec: str) -> None:
        published = Published(codec)
        published.change(0, 1, 2)
        assert published.message(0, 0, 0, 0) is published.message(0, 0, 0, 0)
        published.change(1)
        assert published.message(1, 1, 1, 0) is published.message(1, 1, 1, 0)


@pytest.mark.parametrize("codec", CODECS)
def test_what_did_not_change_is_not_encoded(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    class Watched(ValuesBuilder):
        def add(self, position: int, *arguments: object) -> memoryview:
            encoded.append(position)
            return super().add(position, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(publication, "ValuesBuilder", Watched)
    published = Published(codec)
    encoded.clear()
    published.change(1)
    published.message(0, 0, 0, 0)
    assert encoded == [1]


class TestWhatIsKept:
    """Whatever changes in whatever order, hardly more than the newest frames."""

    def encoded(self, store: BlockStore, positions: list[int]) -> ValuesBuilder:
        builder = ValuesBuilder(store, parse_codec("fp32"), positions)
        for position in positions:
            store.versions[position] += 1
            store.array(store.blocks[position])[:] = store.versions[position]
            builder.add(position, store.array(store.blocks[position]))
        return builder

    @pytest.mark.parametrize("seed", range(3))
    def test_memory_stays_within_the_stated_share(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        store = BlockStore(plan_for(1, (1000, 10, 300, 2000, 50, 700, 5)), sgd(), 0, 1 << 20)
        count = len(store.blocks)
        bundle = PublishedBundle(count)
        everything = list(range(count))
        bundle.put(self.encoded(store, everything).build(delta=False), everything)
        frames = bundle.num_bytes
        for _ in range(200):
            some = sorted(generator.choice(count, generator.integers(1, count), replace=False).tolist())
            bundle.put(self.encoded(store, some).build(delta=False), some)
            heads = 100 * count
            assert bundle.num_bytes <= (1 + WASTE) * frames + heads
            assert_newest(store, bundle.message(np.full(count, -1)))


def assert_newest(store: BlockStore, message: bytes) -> None:
    """Every block once, with the values of its newest version."""
    values = ShardMessage.FromString(message).values
    assert sorted(values.blocks) == list(range(len(store.blocks)))
    start = 0
    for block, version, length in zip(values.blocks, values.versions, values.lengths, strict=True):
        assert version == store.versions[block]
        held: NDArray[np.float32] = np.frombuffer(values.payload[start : start + length], np.float32)
        assert held[-1] == version
        start += length
