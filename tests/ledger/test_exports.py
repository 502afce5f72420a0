"""The public export of a month and its page for people: complete, checked offline, refused when altered."""

import datetime as dt
import io
import json
import shutil
import subprocess
import tarfile
import zipfile

import pytest
from authorities import Authority
from log_samples import DAY_MS, NOV_21, Installation, event

from ledger import months
from ledger.audit import audit_log
from ledger.cli import main
from ledger.encoding import encode_base64
from ledger.errors import LedgerError, Malformed, TimestampFailed
from ledger.export import ATTESTATION, make_export, read_export, verify_export, write_export
from ledger.files import Folder
from ledger.policy import parse_policy
from ledger.receipt import prove_entry

DEC_1 = 1_796_083_200_000
JAN_1 = DEC_1 + 31 * DAY_MS


@pytest.fixture(scope="module")
def stamped(tmp_path_factory):
    """November with 300 events of many types and two stamps, December empty; the policy names one authority."""
    installed = Installation(tmp_path_factory.mktemp("export"))
    writer = installed.open(NOV_21)
    writer.append([event(n, type=f"type-{n % 23}-of-something-with-a-long-name/1") for n in range(300)])
    writer.close(NOV_21)
    installed.publish(310, now_ms=JAN_1 + 5)
    authority = Authority(tmp_path_factory.mktemp("authority") / "one")
    checkpoint = installed.folder.read("roots/2026-11.checkpoint")
    response = authority.forge(checkpoint, at=dt.datetime(2026, 12, 1, 0, 0, 3, tzinfo=dt.UTC))
    for name in ("one", "stranger"):
        installed.folder.replace(f"roots/2026-11.{name}.tsr", response)
    line = f"# tally-timestamp one {encode_base64(authority.root_der)}\n"
    installed.policy_path.write_text(installed.policy_path.read_text() + line)
    return installed


def unseal(installed, data):
    return months.unseal("certificate", data, installed.policy().certificate_keys)[0]


def test_an_export_holds_what_an_outsider_needs_and_no_policy(stamped):
    files = make_export(stamped.folder, stamped.policy(), "2026-11")

    assert list(files) == [
        "2026-11.checkpoint", "2026-11.dsse.json", "2026-11.one.tsr", "2026-11.opening.checkpoint",
        "2026-11.stranger.tsr", "README.txt", "attestation.html", "export.json",
    ]  # fmt: skip
    signed_under = json.loads(unseal(stamped, files["2026-11.dsse.json"]))["predicate"]["policy"]
    assert signed_under in files["README.txt"].decode()
    assert "Take it by a way that you trust" in files["README.txt"].decode()
    assert files["2026-11.checkpoint"] == stamped.folder.read("roots/2026-11.checkpoint")


@pytest.mark.parametrize("name", ["folder", "boston-2026-11.tar", "boston-2026-11.zip"])
def test_an_export_verifies_as_a_folder_a_tar_and_a_zip(stamped, tmp_path, capsys, name):
    files = make_export(stamped.folder, stamped.policy(), "2026-11")
    write_export(tmp_path / name, files)

    code = main(["verify", str(tmp_path / name), "--policy", str(stamped.policy_path)])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert [line.split()[1] for line in lines[:-1]] == ["checkpoint", "month", "time", "time", "export"]
    assert "2026-12-01T00:00:03Z" in lines[2]
    assert lines[3].endswith("not checked: the policy names no such authority")
    assert lines[-1] == "verified"


def test_the_same_month_gives_the_same_archive(stamped, tmp_path):
    for name in ("a.zip", "b.zip", "a.tar", "b.tar"):
        folder = tmp_path / name[0]
        folder.mkdir(exist_ok=True)
        write_export(folder / f"x{name[1:]}", make_export(stamped.folder, stamped.policy(), "2026-11"))

    for kind in ("zip", "tar"):
        assert (tmp_path / "a" / f"x.{kind}").read_bytes() == (tmp_path / "b" / f"x.{kind}").read_bytes()


def test_an_empty_month_is_exported_too(stamped):
    policy = stamped.policy().as_of(JAN_1 // 1000 + 60)  # its stamp is not due yet
    files = make_export(stamped.folder, policy, "2026-12")

    claims = list(verify_export("export", files, policy))

    assert "0 events" in claims[1].detail
    assert b"None: the month is empty." in files[ATTESTATION]


def test_an_open_month_is_not_exported(stamped):
    with pytest.raises(LedgerError, match=r"roots/2027-01.dsse.json: expected the file, found none"):
        make_export(stamped.folder, stamped.policy(), "2027-01")


FILES = ("2026-11.checkpoint", "2026-11.dsse.json", "2026-11.one.tsr", "2026-11.opening.checkpoint", "README.txt")


@pytest.mark.parametrize("name", [*FILES, "attestation.html", "export.json"])
def test_any_altered_or_missing_file_of_an_export_is_named(stamped, name):
    files = make_export(stamped.folder, stamped.policy(), "2026-11")
    middle = len(files[name]) // 2
    altered = files | {name: files[name][:middle] + bytes([files[name][middle] ^ 1]) + files[name][middle + 1 :]}
    missing = {key: data for key, data in files.items() if key != name}

    with pytest.raises(LedgerError) as found:
        list(verify_export("it", altered, stamped.policy()))
    assert str(found.value).startswith("it, ")
    with pytest.raises(LedgerError, match=name):
        list(verify_export("it", missing, stamped.policy()))


def test_a_file_too_many_is_named(stamped):
    files = make_export(stamped.folder, stamped.policy(), "2026-11") | {"policy": b"trust me\n"}

    with pytest.raises(LedgerError, match="it, files: expected no others, found 'policy'"):
        list(verify_export("it", files, stamped.policy()))


def test_an_export_of_another_log_is_refused(stamped, tmp_path):
    other = Installation(tmp_path)
    other.publish(300, now_ms=NOV_21)
    other.publish(310, now_ms=DEC_1)

    with pytest.raises(LedgerError, match="expected a signature by"):
        list(verify_export("it", make_export(other.folder, other.policy(), "2026-11"), stamped.policy()))


def test_a_stamp_of_a_wrong_root_is_refused(stamped, tmp_path):
    twin = Authority(tmp_path / "twin")
    text = "\n".join(line for line in stamped.policy_path.read_text().splitlines() if "tally-timestamp" not in line)
    policy = parse_policy("p", f"{text}\n# tally-timestamp one {encode_base64(twin.root_der)}\n".encode())
    files = make_export(stamped.folder, stamped.policy(), "2026-11")

    with pytest.raises(TimestampFailed, match=r"it, time stamp of one, issuer|it, time stamp of one, chain"):
        list(verify_export("it", files, policy))


def test_a_stamp_older_than_the_closing_checkpoint_is_refused_by_audit_receipt_and_export(tmp_path):
    installed = Installation(tmp_path)
    installed.publish(5, now_ms=NOV_21)
    installed.publish(6, now_ms=DEC_1)
    authority = Authority(tmp_path / "one")
    checkpoint = installed.folder.read("roots/2026-11.checkpoint")
    early = dt.datetime.fromtimestamp(NOV_21 // 1000 - 10, dt.UTC)
    installed.folder.replace("roots/2026-11.one.tsr", authority.forge(checkpoint, at=early))
    line = f"# tally-timestamp one {encode_base64(authority.root_der)}\n"
    policy = parse_policy("p", installed.policy_path.read_bytes() + line.encode())

    for refused in (
        lambda: audit_log(installed.folder, policy),
        lambda: prove_entry(installed.folder, policy, 3),
        lambda: make_export(installed.folder, policy, "2026-11"),
    ):
        with pytest.raises(
            TimestampFailed, match=f"genTime: expected second {NOV_21 // 1000}, when the checkpoint was"
        ):
            refused()


def archive(**names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, data in names.items():
            zipped.writestr(name, data)
    return content.getvalue()


def tar(*members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:") as tarred:
        for member in members:
            tarred.addfile(member, io.BytesIO(b"x" * member.size))
    return content.getvalue()


def member(name, **changes):
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


def packed():
    """A zip whose compressed bytes are damaged."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("x", "abc" * 1000)
    data = bytearray(content.getvalue())
    data[33] ^= 0x07
    return bytes(data)


BAD_ARCHIVES = {
    "damaged compression": packed(),
    "nothing but a mark": b"PK\x03\x04",
    "a cut zip": archive(a="b")[:-10],
    "a path out of it": archive(**{"../evil": "x"}) + b"",
    "two folders": archive(**{"a/x": "x", "b/y": "y"}),
    "a hidden name": archive(**{".x": "x"}),
    "too many": archive(**{f"f{n}": "x" for n in range(65)}),
    "too big": archive(big="x" * 4_000_001),
    "a link": tar(member("x", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a device": tar(member("x", type=tarfile.CHRTYPE)),
    "twice": tar(member("x"), member("x")),
    "a cut tar": tar(member("x", size=2000))[:900],
    "too big a tar": tar(member("x", size=4_000_001)),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_an_archive_that_is_no_export_is_refused(tmp_path, case):
    path = tmp_path / "it"

    if case == "a path out of it":
        assert read_export(path, BAD_ARCHIVES[case]) == {"evil": b"x"}  # a name, written nowhere
        return
    with pytest.raises(Malformed, match="it: expected"):
        read_export(path, BAD_ARCHIVES[case])


def test_an_export_without_its_list_or_of_another_format_is_refused(stamped):
    files = make_export(stamped.folder, stamped.policy(), "2026-11")
    value = json.loads(files["export.json"])
    for bad in (value | {"format": "x"}, value | {"month": "2026-13"}, value | {"month": 7}, [], {}):
        with pytest.raises(LedgerError, match=r"export.json|month"):
            list(verify_export("it", files | {"export.json": json.dumps(bad).encode()}, stamped.policy()))


def test_an_export_is_not_written_over_anything(stamped, tmp_path):
    (tmp_path / "x.zip").write_text("mine")

    with pytest.raises(LedgerError, match="expected nothing there yet"):
        write_export(tmp_path / "x.zip", {"a": b""})


def test_the_page_for_people_is_self_contained_and_escapes_what_it_shows(stamped):
    page = make_export(stamped.folder, stamped.policy(), "2026-11")[ATTESTATION].decode()

    assert "http" not in page.replace("https://tallyroot.example", "").lower()
    assert "<script" not in page
    assert "November 2026" in page
    assert "states 2026-12-01 00:00:03 UTC" in page
    assert "7 more types" in page


def test_markup_in_a_type_is_shown_not_obeyed(tmp_path):
    installed = Installation(tmp_path)
    writer = installed.open(NOV_21)
    writer.append([event(0, type="<b>x</b>&/1")])
    writer.close(NOV_21)
    installed.publish(1, now_ms=DEC_1)

    page = make_export(installed.folder, installed.policy(), "2026-11")[ATTESTATION].decode()

    assert "&lt;b&gt;x&lt;/b&gt;&amp;/1" in page
    assert "<b>" not in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed (Debian: chromium)")
def test_the_page_for_people_prints_on_one_sheet(stamped, tmp_path):
    files = make_export(stamped.folder, stamped.policy(), "2026-11")
    Folder(tmp_path).replace("page.html", files[ATTESTATION])
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --user-data-dir={tmp_path}/profile --no-pdf-header-footer "
        f"--print-to-pdf={tmp_path}/page.pdf"
    )
    command = ["chromium", *options.split(), (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=100)

    pdf = (tmp_path / "page.pdf").read_bytes()

    assert pdf.count(b"/Type /Page\n") == 1 or b"/Count 1\n" in pdf
