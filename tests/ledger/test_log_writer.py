"""The signer's log on disk: what it writes, what it refuses to sign, one writer at a time."""

import itertools
import shutil
from collections import Counter

import pytest
from log_samples import DAY_MS, NOV_21, Installation, event, events, slow_chain, slow_root

from ledger.checkpoint import Checkpoint
from ledger.errors import HistoryForked, LedgerError, LogDamaged, Malformed, SignerLocked, WrongUse
from ledger.events import UNTYPED, count_types, type_of
from ledger.files import Folder
from ledger.keyring import ensure_keys, generate_keys, load_keyring
from ledger.keys import is_private
from ledger.proofs import verify_consistency
from ledger.reader import LogReader
from ledger.tiles import ENTRIES, Tile, parse_tile, tile_at


@pytest.fixture
def installed(tmp_path):
    return Installation(tmp_path)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (tile_at(ENTRIES, 0, 256), "tile/entries/000"),
        (tile_at(ENTRIES, 0, 255), "tile/entries/000.p/255"),
        (tile_at(ENTRIES, 1, 512), "tile/entries/001"),
        (tile_at(ENTRIES, 0, 257), "tile/entries/000"),
        (tile_at(ENTRIES, 1, 257), "tile/entries/001.p/1"),
        (tile_at(ENTRIES, 123456789, 123456790 * 256), "tile/entries/x123/x456/789"),
        (Tile(15, 455667), "tile/15/x455/667"),
        (Tile(15, 123456789, 41), "tile/15/x123/x456/789.p/41"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(0, 5), "tile/0/005"),
        (tile_at(2, 0, 70_000), "tile/2/000.p/1"),
        (tile_at(1, 1, 70_000), "tile/1/001.p/17"),
        (tile_at(0, 273, 70_000), "tile/0/273.p/112"),
    ],
)
def test_a_tile_has_the_published_path(tile, path):
    assert tile.path == path
    assert parse_tile(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/5",
        "tile/0/x000/005",
        "tile/00/005",
        "tile/0/005.p/0",
        "tile/0/005.p/256",
        "tile/0/005.p/07",
        "tile/64/000",
        "tile/0/1234",
        "tile/entries",
        "tile",
        "chain",
        "chain/1/000",
        "notes.txt",
        "../checkpoint",
    ],
)
def test_a_path_of_no_tile_is_refused(path):
    with pytest.raises(Malformed):
        parse_tile(path)


@pytest.mark.parametrize("sizes", [(1,), (255,), (256,), (257,), (1, 2, 3), (100, 256, 300), (256, 512, 700), (900,)])
def test_a_published_log_has_the_root_and_chain_of_the_reference_and_passes_the_audit(installed, sizes):
    installed.publish(*sizes)

    report = installed.audit()

    assert report.checkpoint.checkpoint.root == slow_root(events(0, sizes[-1]))
    assert report.link == slow_chain(events(0, sizes[-1]))
    assert sum(report.counts.values()) == sizes[-1]


def test_an_empty_log_is_published_with_a_signed_checkpoint_and_passes_the_audit(installed):
    installed.publish()

    assert installed.audit().checkpoint.checkpoint.tree_size == 0


def test_the_files_do_not_depend_on_how_entries_came_in_batches(tmp_path):
    one, many = Installation(tmp_path / "one"), Installation(tmp_path / "many")
    one.publish(777)
    many.publish(1, 7, 256, 300, 301, 512, 776, 777)
    tiles = [path for path in one.folder.walk() if path.startswith(("tile", "chain"))]

    assert len(tiles) == 13
    for path in tiles:
        assert one.folder.read(path) == many.folder.read(path), path


def test_partial_tiles_go_once_the_full_one_is_under_a_checkpoint(installed):
    installed.publish(10, 20, 255)
    assert installed.folder.names("tile/0/000.p") == ["10", "20", "255"]

    installed.publish(256)

    assert installed.folder.names("tile/0") == ["000"]
    assert installed.folder.names("tile/entries") == ["000"]
    assert installed.folder.names("chain") == ["000"]


def test_a_reader_of_an_older_size_falls_back_from_a_removed_partial_to_the_full_tile(installed):
    installed.publish(100)
    installed.publish(300)
    reader = LogReader(installed.folder, 100)

    assert reader.root() == slow_root(events(0, 100))
    assert reader.entry(99) == event(99)
    assert reader.link(100) == slow_chain(events(0, 100))


def test_every_checkpoint_extends_the_one_before(installed):
    notes = []
    for size in (1, 5, 256, 257, 600):
        installed.publish(size)
        notes.append(installed.policy().open("checkpoint", installed.folder.read("checkpoint")).checkpoint)

    for old, new in itertools.pairwise(notes):
        proof = LogReader(installed.folder, new.tree_size).consistency_proof(old.tree_size)
        verify_consistency(old.tree_size, new.tree_size, old.root, new.root, proof)
    assert notes[-1].tree_size == 600


def test_signing_without_anything_new_publishes_nothing(installed):
    installed.publish(3)
    before = installed.folder.read("checkpoint")
    writer = installed.open()

    assert writer.sign(NOV_21) is None
    writer.close(NOV_21)
    assert installed.folder.read("checkpoint") == before


def test_an_entry_that_is_too_long_is_refused_and_one_of_the_longest_length_is_not(installed):
    writer = installed.open()
    with pytest.raises(Malformed, match="65535"):
        writer.append([bytes(65_536)])
    writer.abandon()
    writer = installed.open()
    writer.append([b"x" * 65_535, b""])
    writer.sign(NOV_21)
    writer.close(NOV_21)

    assert LogReader(installed.folder, 2).entry(0) == b"x" * 65_535
    assert LogReader(installed.folder, 2).entry(1) == b""


def test_a_writer_that_failed_refuses_to_go_on(installed):
    writer = installed.open()
    with pytest.raises(Malformed):
        writer.append([bytes(65_536)])

    with pytest.raises(WrongUse, match="open the log again"):
        writer.append([event(0)])
    with pytest.raises(WrongUse):
        writer.sign(NOV_21)
    writer.abandon()


def test_a_second_writer_of_the_log_or_of_its_keys_is_refused(installed, tmp_path):
    first = installed.open()

    with pytest.raises(SignerLocked, match="another signer"):
        installed.open()
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(SignerLocked):
        type(first).open(elsewhere, installed.keyring, NOV_21)
    first.close(NOV_21)
    installed.open().close(NOV_21)


def test_a_signer_that_slept_while_another_signed_refuses(installed):
    sleeper = installed.open()
    sleeper.append(events(0, 5))
    for lock in sleeper._locks:
        lock.release()
    installed.publish(3)

    with pytest.raises(HistoryForked, match="nothing was signed"):
        sleeper.sign(NOV_21)


def test_a_log_rolled_back_by_its_disk_is_not_forked(installed, tmp_path):
    installed.publish(300)
    shutil.copytree(installed.log_dir, tmp_path / "older")
    installed.publish(400)
    shutil.rmtree(installed.log_dir)
    (tmp_path / "older").rename(installed.log_dir)
    writer = installed.open()
    writer.append(events(300, 350))

    assert writer.sign(NOV_21) is None, "nothing may be signed before the promised size is reached"
    writer.append(events(350, 500))
    assert writer.signed.tree_size == 400
    writer.sign(NOV_21)
    writer.close(NOV_21)
    assert installed.audit().checkpoint.checkpoint.tree_size == 500


def test_another_history_after_a_roll_back_is_refused(installed, tmp_path):
    installed.publish(300)
    shutil.copytree(installed.log_dir, tmp_path / "older")
    installed.publish(400)
    shutil.rmtree(installed.log_dir)
    (tmp_path / "older").rename(installed.log_dir)
    writer = installed.open()

    with pytest.raises(HistoryForked, match="as signed before"):
        writer.append([*events(300, 350), event(350, actor="someone"), *events(351, 400)])
    writer.abandon()


def test_a_log_that_vanished_is_not_begun_anew_under_the_same_keys(installed):
    installed.publish(10)
    shutil.rmtree(installed.log_dir)

    with pytest.raises(LogDamaged, match="restore"):
        installed.open()


@pytest.mark.parametrize(
    "path", ["checkpoint", "tile/0/001.p/44", "tile/entries/001.p/44", "chain/001.p/44", "tile/1/000.p/1"]
)
def test_a_damaged_right_edge_is_refused_at_open(installed, path):
    installed.publish(300)
    data = bytearray(installed.folder.read(path))
    data[len(data) // 2] ^= 4
    installed.folder.replace(path, bytes(data))

    with pytest.raises(LedgerError, match=path.split("/")[0] if path == "checkpoint" else "."):
        installed.open()


def test_a_bit_that_flips_between_storing_and_hashing_stops_the_signer(installed):
    class FlippingFolder(Folder):
        def read(self, path):
            data = super().read(path)
            if path == "tile/entries/000.p/9" and data:
                return data[:-1] + bytes([data[-1] ^ 1])
            return data

    writer = installed.open(folder=FlippingFolder(installed.log_dir))
    writer.append(events(0, 9))
    with pytest.raises(LogDamaged, match="read back before signing"):
        writer.sign(NOV_21)
    writer.abandon()
    assert installed.audit().checkpoint.checkpoint.tree_size == 0


def test_a_whole_leftover_bundle_with_other_events_says_that_history_changed(installed):
    writer = installed.open()
    writer.append(events(0, 300))
    writer.abandon()
    writer = installed.open()

    with pytest.raises(HistoryForked, match="move the file away"):
        writer.append([event(0, actor="someone"), *events(1, 300)])
    writer.abandon()


def test_partials_that_a_crash_left_further_right_are_gone_after_the_next_start(installed):
    installed.publish(100)
    left = ["tile/entries/000.p/130", "tile/entries/001.p/44", "tile/0/002.p/9", "tile/1/000.p/2", "chain/x001/000.p/3"]
    for path in left:
        installed.folder.replace(path, b"left")

    installed.publish(101)

    assert [path for path in left if installed.folder.read(path) is not None] == []
    assert installed.folder.read("tile/entries/000.p/101") is not None
    assert installed.audit().checkpoint.checkpoint.tree_size == 101


def test_a_tree_that_does_not_extend_the_signed_one_is_not_signed(installed):
    writer = installed.open()
    writer.append(events(0, 300))
    writer.sign(NOV_21)
    signed = writer.signed
    writer._builder._edge.levels[1][0] = bytes(32)  # memory that went wrong
    writer.append(events(300, 301))

    with pytest.raises(HistoryForked, match="does not extend"):
        writer.sign(NOV_21 + DAY_MS)
    writer.abandon()
    assert installed.policy().open("checkpoint", installed.folder.read("checkpoint")).checkpoint == signed


def test_keys_are_private_and_separate_and_never_replaced(installed):
    folder = installed.keyring.folder
    secrets = [path for path in folder.iterdir() if path.suffix == ".key"]

    assert all(is_private(path) for path in secrets)
    assert folder.stat().st_mode & 0o777 == 0o700
    publics = {key.key.public for key in (*installed.keyring.log_keys, installed.keyring.certificate_keys[-1])}
    assert len(publics) == len(secrets)
    with pytest.raises(WrongUse, match="never replaced"):
        generate_keys(folder, "elsewhere.example")


def test_a_set_of_keys_that_was_begun_is_completed(installed):
    folder = installed.keyring.folder
    (folder / "policy").unlink()
    (folder / "certificate-ed25519.key").unlink()

    again = ensure_keys(folder.parent, folder.name)

    assert again.log_keys[0].key == installed.keyring.log_keys[0].key
    assert again.certificate_keys[-1].key != installed.keyring.certificate_keys[-1].key


def test_a_missing_private_key_is_named(installed):
    (installed.keyring.folder / "certificate-ed25519.key").unlink()

    with pytest.raises(WrongUse, match=r"certificate-ed25519\.key is not there"):
        load_keyring(installed.keyring.folder)


def test_the_time_in_checkpoints_never_goes_backwards(installed):
    installed.publish(1, now_ms=NOV_21)
    installed.publish(2, now_ms=NOV_21 - 3_600_000)
    opened = installed.policy().open("checkpoint", installed.folder.read("checkpoint"))

    assert opened.at_seconds in {NOV_21 // 1000, None}
    assert opened.checkpoint == Checkpoint(installed.keyring.origin, 2, slow_root(events(0, 2)))


def test_types_are_counted_as_they_are_read_one_by_one():
    odd = [b"", b"{", b"\xff", b'{"type":"x"}', event(0).replace(b"xp-awarded/1", b"a\\u0062"), event(1, type="é")]
    bad = event(1).replace(b"xp-awarded/1", b"\xff")
    cut, nameless = event(1)[: event(1).index(b',"subject"')], event(1, type="")
    for entries in ([], events(0, 50), [*events(0, 9), *odd], [*events(0, 9), bad], [cut], [nameless, event(2)]):
        assert count_types(entries) == Counter(map(type_of, entries))
    assert count_types([nameless, event(2, type=UNTYPED)]) == {UNTYPED: 2}
