"""Container images are taken apart by rules: what is not as it is named, or not understood, is refused."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
from typing import Any

import pytest

from node.executor.host.seal import seal_bytes
from node.executor.oci import layout
from node.executor.oci.flatten import Plan, lay_over, stand_ins, write
from node.executor.oci.layers import ImageRefused
from node.executor.oci.layout import open_image, plan_of_fds

from .oci_images import Member, blobs_of, digest, folder, hard, image, layer, link, member, pack


def opened(data: bytes) -> layout.OpenImage:
    fd = seal_bytes(data, "image")
    try:
        return open_image(fd, len(data))
    finally:
        os.close(fd)


def plan_of(*layers: bytes) -> Plan:
    fds = [(seal_bytes(one, "layer"), len(one)) for one in layers]
    try:
        return plan_of_fds(fds)
    finally:
        for fd, _ in fds:
            os.close(fd)


def refused(data: bytes) -> str:
    with pytest.raises(ImageRefused) as caught:
        opened(data)
    return str(caught.value)


ONE = layer(
    folder("etc"), member("etc/a", b"lower"), member("etc/b", b"stays"), folder("var"), member("var/c", b"c")
)


def test_an_image_opens_to_its_files_in_both_forms_and_two_gzip_members() -> None:
    for gzipped in (True, False):
        found = opened(image(ONE, gzipped=gzipped))
        assert sorted(found.plan.pieces) == ["etc", "etc/a", "etc/b", "var", "var/c"]
        assert [one.digest for one in found.layers] == [digest(ONE)]
        found.close()
    files = blobs_of([ONE])
    old = next(name for name, data in files.items() if data[:2] == b"\x1f\x8b")
    twice = gzip.compress(ONE[:700]) + gzip.compress(ONE[700:])
    files = replaced(files, old, twice)
    opened(pack(files)).close()


def replaced(files: dict[str, bytes], old: str, data: bytes) -> dict[str, bytes]:
    """The layout with another blob in the place of `old`, named right everywhere above it."""
    files = dict(files)
    was = old.removeprefix("blobs/sha256/")
    size = len(files.pop(old))
    files[f"blobs/sha256/{digest(data)}"] = data
    for name in [name for name in files if was.encode() in files[name]]:
        above = json.loads(files[name])
        text = json.dumps(above).replace(was, digest(data)).replace(f'"size": {size}', f'"size": {len(data)}')
        if name == "index.json":
            files[name] = text.encode()
        else:
            files = replaced(files, name, text.encode())
    return files


def test_a_changed_byte_in_any_blob_is_seen() -> None:
    """[Z3]"""
    files = blobs_of([ONE], gzipped=False)
    for name in files:
        if name.startswith("blobs/"):
            data = bytearray(files[name])
            data[len(data) // 2] ^= 1
            assert "is named" in refused(pack(files | {name: bytes(data)}))


def test_a_layer_that_is_not_what_the_configuration_names_is_seen() -> None:
    assert "when decompressed" in refused(
        image(ONE, rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64]})
    )
    assert "diff_ids" in refused(image(ONE, rootfs={"type": "layers", "diff_ids": []}))


def test_a_zip_bomb_is_stopped_at_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "IMAGE_BYTES_MAX", 1 << 20)
    bomb = layer(member("zeros", bytes(64 << 20)))
    small = image(bomb)
    assert len(small) < 1 << 20
    assert "decompressed, have at most 1048576 B" in refused(small)


def test_what_belongs_to_no_part_is_refused() -> None:
    files = blobs_of([ONE])
    assert "belongs to no part" in refused(pack(files | {"blobs/sha256/" + digest(b"x"): b"x"}))
    assert "belongs to no part" in refused(pack(files | {"evil": b"x"}))


@pytest.mark.parametrize(
    ("name", "data", "rule"),
    [
        ("oci-layout", None, "OCI image layout is wanted"),
        ("oci-layout", b"{}", "imageLayoutVersion"),
        ("index.json", b"[]", "not a JSON object"),
        ("index.json", b"[" * 100_000, "not JSON"),
        ("index.json", b'{"schemaVersion":2,"manifests":[]}', "names one image"),
        ("index.json", b'{"schemaVersion":2,"manifests":[{"mediaType":"x"}]}', "media type"),
    ],
)
def test_a_layout_that_is_none_is_refused(name: str, data: bytes | None, rule: str) -> None:
    files = blobs_of([ONE])
    files = {key: value for key, value in files.items() if key != name} | (
        {name: data} if data is not None else {}
    )
    assert rule in refused(pack(files))


def test_other_kinds_of_layers_are_refused_by_name() -> None:
    files = blobs_of([ONE])
    manifest = next(name for name, data in files.items() if b'"layers"' in data and b'"mediaType"' in data)
    zstd = files[manifest].replace(b"tar+gzip", b"tar+zstd")
    assert "tar+zstd" in refused(pack(replaced(files, manifest, zstd)))
    assert "linux" in refused(image(ONE, os="windows"))


def test_gzip_that_ends_early_or_is_none_is_refused() -> None:
    files = blobs_of([ONE])
    old = next(name for name, data in files.items() if data[:2] == b"\x1f\x8b")
    assert "ends too early" in refused(pack(replaced(files, old, files[old][:-9])))
    assert "not gzip" in refused(pack(replaced(files, old, b"not gzip at all")))
    assert "not gzip" in refused(pack(replaced(files, old, files[old] + b"rest")))


# --- layers on top of each other --------------------------------------------------------------------------


def data(plan: Plan, path: str, *layers: bytes) -> bytes:
    piece = plan.pieces[path]
    return layers[piece.source][piece.offset : piece.offset + piece.size_bytes]


def test_upper_layers_replace_and_whiteouts_remove() -> None:
    upper = layer(
        member("etc/a", b"upper"), member("etc/.wh.b"), member("var/.wh..wh..opq"), member("var/d", b"new")
    )
    plan = plan_of(ONE, upper)
    assert sorted(plan.pieces) == ["etc", "etc/a", "var", "var/d"]
    assert data(plan, "etc/a", ONE, upper) == b"upper"


def test_whiteouts_take_nothing_of_their_own_layer_away() -> None:
    """[Z4]"""
    upper = layer(
        member("var/d", b"new"), member("var/.wh..wh..opq"), member("etc/b", b"b"), member("etc/.wh.b")
    )
    assert {"var/d", "etc/b"} <= set(plan_of(ONE, upper).pieces)
    assert "var/c" not in plan_of(ONE, upper).pieces


def test_a_whiteout_removes_a_folder_with_all_below_and_a_file_may_take_its_place() -> None:
    assert "etc/a" not in plan_of(ONE, layer(member(".wh.etc"))).pieces
    plan = plan_of(ONE, layer(member("etc", b"a file now")))
    assert plan.pieces["etc"].kind == "file" and "etc/a" not in plan.pieces


def test_hard_links_are_one_file_and_outlive_the_name_they_were_made_by(tmp_path: Any) -> None:
    one = layer(member("a", b"same", mode=0o755), hard("b", "a"))
    plan = plan_of(one, layer(member(".wh.a")))
    assert data(plan, "b", one) == b"same"
    both, fd = plan_of(one), seal_bytes(one, "layer")
    assert both.size_bytes == 4
    write(both, str(tmp_path), [fd], None)
    os.close(fd)
    assert (tmp_path / "a").samefile(tmp_path / "b") and (tmp_path / "a").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ([member("../x", b"")], "'..'"),
        ([member("/etc/x", b"")], "relative"),
        ([member("a/../../x", b"")], "'..'"),
        ([link("out", "/etc"), member("out/x", b"")], "leads nowhere"),
        ([link("out", "../../.."), folder("out/x")], "leads nowhere"),
        ([hard("x", "etc/nothing")], "is no file"),
        ([hard("x", "../../etc/passwd")], "'..'"),
        ([link("l", "/etc/shadow"), hard("x", "l")], "is no file"),
        ([member("d", kind=tarfile.CHRTYPE)], "character device"),
        ([member("d", kind=tarfile.BLKTYPE)], "block device"),
        ([member("d", kind=tarfile.FIFOTYPE)], "fifo"),
        ([member("d", kind=b"S")], "sparse"),
        ([member("x", b"", uid=70_000)], "up to 65535"),
        ([member("x", b"a"), member("x", b"b")], "named twice"),
        ([member(".wh..wh.plnk", b"")], "no whiteout"),
        ([member(".wh.x/y", b"")], "below a whiteout"),
        ([member("x\x01", b"")], "control"),
        ([member("x", b"", pax_headers={"GNU.sparse.major": "1"})], "sparse"),
    ],
)
def test_a_member_that_breaks_a_rule_is_refused(members: list[Member], rule: str) -> None:
    with pytest.raises(ImageRefused, match=rule):
        plan_of(layer(*members))


def test_a_link_of_a_lower_layer_leads_no_upper_one_anywhere() -> None:
    """[Z4]"""
    with pytest.raises(ImageRefused, match="leads nowhere"):
        plan_of(layer(link("app", "/")), layer(member("app/etc/cron", b"evil")))


def test_set_user_id_bits_are_left_out_and_long_names_are_read() -> None:
    long = "a/" + "n" * 180 + "/" + "m" * 120
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        plan = plan_of(layer(member("su", b"x", mode=0o6755), member(long, b"y"), form=form))
        assert plan.pieces["su"].mode == 0o755
        assert plan.pieces[long].kind == "file"


def test_what_other_mounts_hide_is_left_out() -> None:
    plan = plan_of(layer(link("tmp", "/etc"), folder("dev"), member("dev/x", b""), member("proc/kcore", b"")))
    assert not set(plan.pieces) & {"tmp", "dev", "dev/x", "proc"}


def test_broken_tars_are_refused() -> None:
    broken = bytearray(ONE)
    broken[0] ^= 1
    for each, rule in ((bytes(broken), "checksum"), (ONE[:512], "ends"), (b"", "ends")):
        with pytest.raises(ImageRefused, match=rule):
            plan_of(each)


def test_artifacts_lie_on_top_of_files_and_of_nothing_else() -> None:
    plan = plan_of(ONE)
    lay_over(plan, [], [(1, 5, "/etc/a", 0o444), (1, 5, "/srv/new", 0o555)], ["/data"])
    assert plan.pieces["etc/a"].source == 1 and plan.pieces["srv/new"].mode == 0o555
    assert plan.pieces["data"].kind == plan.pieces["tmp"].kind == "folder"
    for path in ("/etc", "/etc/a/below"):
        with pytest.raises(ImageRefused):
            lay_over(plan_of(ONE), [], [(1, 5, path, 0o444)], [])
    linked = plan_of(layer(link("srv", "/etc")))
    with pytest.raises(ImageRefused, match="leads nowhere"):
        lay_over(linked, [], [(1, 5, "/srv/passwd", 0o444)], [])
    with pytest.raises(ImageRefused, match="a folder is needed"):
        lay_over(plan_of(layer(link("data", "/etc"))), [], [], ["/data"])
    with pytest.raises(ImageRefused, match="a file is needed"):
        stand_ins(plan_of(layer(link("etc/hostname", "/x"))), ["/etc/hostname"])
    with pytest.raises(ImageRefused, match="at most 1048576 B"):
        stand_ins(plan_of(layer(member("etc/passwd", bytes(2 << 20)))), ["/etc/passwd"])
