"""Published values: everybody who holds a version holds the same bits, however it came to them."""

import numpy as np
import pytest
from raw_worker import plan_for, sgd

from pushpull.compression.frame import parse_frame
from pushpull.compression.spec import example_specs, parse_codec
from pushpull.protos.shard_pb2 import ShardMessage
from pushpull.ps_server.blocks import BlockStore, Bundle
from pushpull.ps_server.config import JobSettings
from pushpull.ps_server.publication import Publisher, publisher_for
from pushpull.ps_server.shares import UNWANTED

SIZES = (300, 700, 40, 64)


class Holder:
    """A worker's side: takes messages, remembers versions."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.values = {block.block_id: np.zeros(block.num_elements, np.float32) for block in store.blocks}
        self.versions = np.full(len(store.blocks), -1, dtype=np.int64)
        self.num_bytes = 0

    def pull(self, publisher: Publisher, bundle: Bundle) -> bool:
        """Pulls one bundle; whether it came as differences."""
        data = publisher.message(bundle, self.versions[bundle.first : bundle.last])
        self.num_bytes = len(data)
        values = ShardMessage.FromString(data).values
        start = 0
        for block, version, length in zip(values.blocks, values.versions, values.lengths, strict=True):
            frame = parse_frame(values.payload[start : start + length], len(self.values[block]))
            (frame.add_to if values.delta else frame.decode_into)(self.values[block])
            self.versions[self._store.position_of[block]] = version
            start += length
        return values.delta


def change(store: BlockStore, bundle: Bundle, positions: list[int], generator: np.random.Generator) -> list[int]:
    for position in positions:
        block = store.blocks[position]
        store.array(block)[:] += generator.standard_normal(block.num_elements).astype(np.float32)
        store.versions[position] += 1
    return positions


def every_pull_codec() -> list[str]:
    """What the table has and a synchronous job accepts."""
    return [spec for spec in example_specs() if parse_codec(spec).contract.admits_error_feedback]


@pytest.mark.parametrize("codec", every_pull_codec())
def test_joiners_and_followers_hold_the_same_bits(codec: str) -> None:
    generator = np.random.default_rng(0)
    store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
    (bundle,) = store.bundles
    publisher = publisher_for(JobSettings(pull_codec=codec), store)
    publisher.publish_initial(bundle)
    follower = Holder(store)
    assert not follower.pull(publisher, bundle)
    for version in range(5):
        publisher.publish(bundle, change(store, bundle, [0, 1, 2] if version % 2 else [1], generator))
        followed = follower.pull(publisher, bundle)
        assert followed == (codec not in ("fp32", "fp16", "bf16"))
        joiner = Holder(store)
        assert not joiner.pull(publisher, bundle)
        for block, values in follower.values.items():
            np.testing.assert_array_equal(values.view(np.uint32), joiner.values[block].view(np.uint32))


def test_a_codec_that_draws_draws_anew_for_every_version() -> None:
    store = BlockStore(plan_for(1, (1000,)), sgd(), 0, 1 << 20)
    (bundle,) = store.bundles
    publisher = publisher_for(JobSettings(pull_codec="randk:0.1:unscaled+fp32"), store)
    publisher.publish_initial(bundle)
    follower = Holder(store)
    follower.pull(publisher, bundle)
    store.array(store.blocks[0])[:] += 1.0
    for _ in range(120):
        store.versions[0] += 1
        publisher.publish(bundle, [0])
        follower.pull(publisher, bundle)
    # An element stays behind with probability 0.9 in each version.
    assert np.count_nonzero(follower.values[store.blocks[0].block_id]) == 1000


def test_initialising_again_publishes_whole_values() -> None:
    store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
    (bundle,) = store.bundles
    publisher = publisher_for(JobSettings(pull_codec="int8"), store)
    for value in (1.0, 2.0):
        for block in store.blocks:
            store.array(block)[:] = value
        publisher.publish_initial(bundle)
        holder = Holder(store)
        assert not holder.pull(publisher, bundle)
        assert all((values == value).all() for values in holder.values.values())


def test_who_missed_a_version_gets_whole_values() -> None:
    generator = np.random.default_rng(0)
    store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
    (bundle,) = store.bundles
    publisher = publisher_for(JobSettings(pull_codec="int8"), store)
    publisher.publish_initial(bundle)
    away, follower = Holder(store), Holder(store)
    away.pull(publisher, bundle)
    follower.pull(publisher, bundle)
    for _ in range(2):
        publisher.publish(bundle, change(store, bundle, [0, 1], generator))
        assert follower.pull(publisher, bundle)
    assert not away.pull(publisher, bundle)
    for block, values in follower.values.items():
        np.testing.assert_array_equal(values, away.values[block])


def test_differences_bring_the_followers_to_the_values() -> None:
    """What a difference leaves out comes with the next: the error does not grow."""
    generator = np.random.default_rng(0)
    store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
    (bundle,) = store.bundles
    publisher = publisher_for(JobSettings(pull_codec="int8"), store)
    publisher.publish_initial(bundle)
    follower = Holder(store)
    follower.pull(publisher, bundle)
    for _ in range(50):
        publisher.publish(bundle, change(store, bundle, [0, 1, 2], generator))
        follower.pull(publisher, bundle)
    for block in store.blocks[:3]:
        error = np.abs(follower.values[block.block_id] - store.array(block)).max()
        assert error < 0.05
    assert follower.num_bytes < 1.3 * sum(SIZES)


class TestPartsOfABundle:
    """A rank pulls its blocks: the same frames as everybody's, cut out."""

    def frames(self, data: bytes) -> dict[int, tuple[int, bool, bytes]]:
        """Version, whether it is a difference, and frame, by block."""
        values = ShardMessage.FromString(data).values
        ends = np.cumsum(values.lengths).tolist()
        return {
            block: (version, values.delta, values.payload[end - length : end])
            for block, version, length, end in zip(values.blocks, values.versions, values.lengths, ends, strict=True)
        }

    @pytest.mark.parametrize("codec", every_pull_codec())
    @pytest.mark.parametrize("places", [[0], [3], [1, 2], [0, 2], [0, 1, 2, 3]], ids=str)
    def test_a_part_has_the_frames_of_the_whole(self, codec: str, places: list[int]) -> None:
        generator = np.random.default_rng(0)
        store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
        (bundle,) = store.bundles
        publisher = publisher_for(JobSettings(pull_codec=codec), store)
        publisher.publish_initial(bundle)
        change(store, bundle, list(bundle), generator)
        for held in (np.full(4, -1), np.zeros(4, dtype=np.int64)):
            if held[0] == 0:
                publisher.publish(bundle, list(bundle))
            some = np.full(4, UNWANTED)
            some[places] = held[places]
            whole = self.frames(publisher.message(bundle, held))
            part = self.frames(publisher.message(bundle, some))
            assert part == {store.blocks[place].block_id: whole[store.blocks[place].block_id] for place in places}

    @pytest.mark.parametrize("codec", ["fp32", "bf16"])
    def test_of_whole_values_only_what_is_newer_is_cut_out(self, codec: str) -> None:
        store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
        (bundle,) = store.bundles
        publisher = publisher_for(JobSettings(pull_codec=codec), store)
        publisher.publish_initial(bundle)
        publisher.publish(bundle, change(store, bundle, [1, 2], np.random.default_rng(0)))
        held = np.array([0, 0, 1, UNWANTED])
        assert list(self.frames(publisher.message(bundle, held))) == [1]

    def test_differences_go_to_who_holds_the_base_of_what_it_wants(self) -> None:
        generator = np.random.default_rng(0)
        store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
        (bundle,) = store.bundles
        publisher = publisher_for(JobSettings(pull_codec="int8"), store)
        publisher.publish_initial(bundle)
        for _ in range(2):
            publisher.publish(bundle, change(store, bundle, [0, 1], generator))

        def is_delta(*held: int) -> set[bool]:
            return {delta for _, delta, _ in self.frames(publisher.message(bundle, np.array(held))).values()}

        assert is_delta(1, 1, 0, 0) == {True}
        assert is_delta(1, UNWANTED, 0, UNWANTED) == {True}
        assert is_delta(0, UNWANTED, 0, UNWANTED) == {False}
        assert is_delta(0, 1, 0, 0) == {False}

    def test_values_that_are_replaced_leave_differences_of_the_others_as_they_are(self) -> None:
        """Running statistics that come with every step, say, which nobody else is sent."""
        generator = np.random.default_rng(0)
        store = BlockStore(plan_for(1, SIZES), sgd(), 0, 1 << 20)
        (bundle,) = store.bundles
        publisher = publisher_for(JobSettings(pull_codec="int8"), store)
        publisher.publish_initial(bundle)
        publisher.publish(bundle, change(store, bundle, [0, 1], generator))
        publisher.replace(bundle, change(store, bundle, [1, 3], generator))

        def frames(*held: int) -> dict[int, tuple[int, bool, bytes]]:
            return self.frames(publisher.message(bundle, np.array(held)))

        ids = [block.block_id for block in store.blocks]
        assert [(block, delta) for block, (_, delta, _) in frames(0, UNWANTED, 0, UNWANTED).items()] == [(ids[0], True)]
        for held in ((1, 0, 0, UNWANTED), (1, 1, 0, 0), (0, 0, 0, 0)):
            assert {delta for _, delta, _ in frames(*held).values()} == {False}
