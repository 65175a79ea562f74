from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vaekit.data import cache as disk
from vaekit.data import images as images_module
from vaekit.data.decoding import fit_size, to_bits, to_channels
from vaekit.data.loading import conform, open
from vaekit.errors import ConfigError, DataError

Make = Callable[..., tuple[Path, np.ndarray]]
Write = Callable[[Path, np.ndarray], None]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("suffix", "bits"), [(".png", 8), (".png", 16), (".tiff", 8), (".tiff", 16), (".webp", 8), (".bmp", 8)]
)
def test_lossless_files_come_back_exactly(tmp_path: Path, suffix: str, bits: int, channels: int, write_image: Write) -> None:
    if (suffix, channels) in ((".webp", 1), (".bmp", 4)):
        return  # there are no such files
    pixels = np.random.default_rng(0).integers(0, 2**bits, (3, 7, 5, channels)).astype(f"uint{bits}")
    if suffix == ".webp" and channels == 4:
        pixels[..., 3] = np.maximum(pixels[..., 3], 1)  # colours that cannot be seen are not kept
    for index, image in enumerate(pixels):
        write_image(tmp_path / "d" / f"{index}{suffix}", image[..., 0] if channels == 1 else image)
    data = open(tmp_path / "d")
    assert (data.schema.shape, data.schema.levels) == ((channels, 7, 5), 2**bits)
    raw = data.raw()
    expected = pixels[..., 0] if channels == 1 else pixels
    assert raw.dtype == expected.dtype
    assert np.array_equal(raw, expected)
    found = conform(tmp_path / "d", data.schema)
    assert np.array_equal(found.x, data.x)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_pillow_reads(tmp_path: Path, channels: int) -> None:
    (tmp_path / "d").mkdir()
    smooth = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
    image = Image.fromarray(smooth if channels == 1 else np.stack([smooth, smooth.T, 255 - smooth], -1))
    image.save(tmp_path / "d" / "a.jpg", quality=95)
    with Image.open(tmp_path / "d" / "a.jpg") as read:
        assert np.array_equal(open(tmp_path / "d").raw()[0], np.asarray(read))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "L", "RGB"])
def test_modes(tmp_path: Path, mode: str) -> None:
    (tmp_path / "d").mkdir()
    smooth = Image.fromarray(np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10))
    image = smooth.convert("RGB").convert(mode) if mode == "P" else smooth.convert(mode)
    image.save(tmp_path / "d" / ("a.tif" if mode == "CMYK" else "a.png"))
    wanted = {"1": "L", "P": "RGB", "LA": "RGBA", "CMYK": "RGB", "L": "L", "RGB": "RGB"}[mode]
    data = open(tmp_path / "d")
    assert np.array_equal(data.raw()[0], np.asarray(image.convert(wanted)))
    assert data.schema.values == ("binary" if mode == "1" else "levels")
    if mode == "1":
        assert (data.schema.offset, data.schema.step) == (0, 255)


def test_grey_and_alpha_of_16_bits(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(2, 3, 2) * 5000

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 4, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert np.array_equal(open(tmp_path / "a.png").raw()[0], pixels[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
    upright = [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1]]
    turned = pixels.transpose(1, 0, 2)
    upright += [turned, turned[:, ::-1], turned[::-1, ::-1], turned[::-1]]
    for name in ("a.png", "a.tif"):
        assert np.array_equal(open(tmp_path / name).raw()[0], upright[orientation - 1])
    # the same in 16 bits, where OpenCV decodes and the chunk with the orientation is put in by hand
    deep = pixels.astype(np.uint16) * 1000
    encoded = cv2.imencode(".png", deep[..., ::-1])[1].tobytes()
    tag = b"eXIf" + exif.tobytes()[6:]
    encoded = encoded[:33] + struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag)) + encoded[33:]
    (tmp_path / "deep.png").write_bytes(encoded)
    assert np.array_equal(open(tmp_path / "deep.png").raw()[0], upright[orientation - 1].astype(np.uint16) * 1000)


def test_names_classes_and_splits(make_folder: Make, write_image: Write) -> None:
    names = ["train/b/2.png", "train/b/10.png", "train/a/1.png", "test/a/1.png", "val/b/1.png"]
    root, pixels = make_folder(names)
    (root / "train" / "readme.txt").write_text("x")
    (root / "train" / ".hidden.png").write_text("x")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.png").write_text("x")
    write_image(root / "preview.png", pixels[0])
    data = open(root)
    assert data.names == ["test/a/1.png", "train/a/1.png", "train/b/2.png", "train/b/10.png", "val/b/1.png"]
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {"train": [1, 2, 3], "valid": [4], "test": [0]}
    assert data.schema.column("label").categories == ("a", "b")
    assert data.columns["label"].tolist() == [0, 0, 1, 1, 1]
    assert np.array_equal(data.split("train").raw(), pixels[[2, 0, 1]])
    assert data.split("test").names == ["test/a/1.png"]
    assert "Files left out because they are no images: 1 (.txt)." in data.notes
    assert "Images left out because they lie beside `train/`, in no split: 1." in data.notes


def test_a_zip_is_the_folder(make_folder: Make, tmp_path: Path) -> None:
    root, pixels = make_folder(["d/x/1.png", "d/y/2.png", "d/y/3.png"])
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.mkdir("d")
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
        archive.writestr("__MACOSX/d/._1.png", "x")
        archive.writestr("../../escape.png", (root / "d/x/1.png").read_bytes())
    data = open(tmp_path / "images.zip")
    assert data.schema.source.form == "zip"
    assert data.names == ["d/x/1.png", "d/y/2.png", "d/y/3.png", "escape.png"]
    assert np.array_equal(data.raw()[:3], pixels)
    assert np.array_equal(conform(root, data.schema).raw(), pixels)


def test_loops_of_links_are_not_followed(make_folder: Make) -> None:
    root, _ = make_folder(["a/1.png", "b/1.png"])
    os.symlink(root, root / "a" / "up")
    os.symlink(root / "b", root / "c")
    assert open(root).names == ["a/1.png", "b/1.png", "c/1.png"]


def test_sizes(tmp_path: Path, make_folder: Make, write_image: Write) -> None:
    root, pixels = make_folder(["1.png", "2.png"], size=(40, 30))
    write_image(root / "3.png", np.full((100, 20, 3), 7, np.uint8))
    data = open(root)
    assert data.schema.shape == (3, 24, 24)  # the median shorter side is 30
    assert data.schema.source.size == (24, 24)
    assert data.schema.source.fit == "crop"
    assert "2 sizes and are cut to 24 x 24" in data.notes[0]
    assert open(root, size=16, fit="pad").schema.shape == (3, 16, 16)
    assert open(root, size=(8, 16), fit="resize").schema.shape == (3, 8, 16)
    (root / "3.png").unlink()
    assert np.array_equal(open(root).raw(), pixels)
    again = conform(root, data.schema)
    assert again.schema.shape == (3, 24, 24)
    big = tmp_path / "big"
    write_image(big / "1.png", np.random.default_rng(0).integers(0, 256, (300, 310, 3), dtype=np.uint8))
    assert open(big).schema.shape == (3, 64, 64)
    assert "300 x 310 pixels" in open(big).notes[0]


def test_fit() -> None:
    image = np.zeros((4, 8, 1), np.uint8)
    image[:, 2:6] = 100
    assert np.unique(fit_size(image, 2, 2, "crop")).tolist() == [100]
    assert fit_size(image, 4, 4, "resize")[0, :, 0].tolist() == [0, 100, 100, 0]
    padded = fit_size(np.full((4, 8, 1), 100, np.uint8), 8, 8, "pad")[:, 0, 0]
    assert padded.tolist() == [0, 0, 100, 100, 100, 100, 0, 0]
    large = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    box = large.reshape(2, 4, 2, 4, 3).mean((1, 3))
    assert np.abs(fit_size(large, 2, 2, "crop") - box).max() <= 0.5


def test_large_jpegs_are_drafted_to_nearly_the_same(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    ramp = np.add.outer(np.linspace(0, 100, 400), np.linspace(0, 155, 600)).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "d" / "a.jpg", quality=95)
    small = open(tmp_path / "d", size=(20, 30)).raw()[0]
    assert np.abs(small - ramp.reshape(20, 20, 30, 20).mean((1, 3))).max() < 2


def test_channels_and_bits(make_folder: Make, write_image: Write) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    write_image(root / "3.png", pixels[0, ..., 0])
    with pytest.raises(DataError, match=r"channels, found 2 images with 3, 1 images with 1.*`channels=3` \(`--channels 3`\)"):
        open(root)
    data = open(root, channels=3)
    assert np.array_equal(data.raw()[2], np.repeat(pixels[0, ..., :1], 3, -1))
    assert np.array_equal(conform(root, data.schema).x, data.x)
    write_image(root / "3.png", pixels[0].astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"bits a channel, found.*`--bits 8`"):
        open(root)
    assert np.array_equal(open(root, bits=8).raw()[2], pixels[0])
    assert np.array_equal(open(root, bits=16).raw()[0], pixels[0].astype(np.uint16) * 257)


def test_channel_and_bit_arithmetic() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    assert np.array_equal(to_channels(pixels, 1)[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))
    assert np.array_equal(to_channels(pixels[..., :3], 4), np.asarray(Image.fromarray(pixels[..., :3]).convert("RGBA")))
    white = np.full((1, 1, 3), 65535, np.uint16)
    assert to_channels(white, 1).tolist() == [[[65535]]]
    assert np.array_equal(to_bits(to_bits(pixels, 16), 8), pixels)


def bomb(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (head, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_image_bombs_are_refused_by_their_header(make_folder: Make, side: int) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    (root / "3.png").write_bytes(bomb(side, side))
    with pytest.raises(DataError, match=r"1 of 3 that are not: 3\.png \(.*more than max_pixels=100000000.*--skip-bad"):
        open(root, max_pixels=100_000_000)
    assert np.array_equal(open(root, skip_bad=True, max_pixels=100_000_000).raw(), pixels)


@pytest.mark.parametrize("side", [14_000, 40_000])  # on either side of where Pillow itself refuses
def test_the_limit_on_pixels_needs_no_option(make_folder: Make, side: int) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    (root / "3.png").write_bytes(bomb(side, side))
    with pytest.raises(DataError, match=r"1 of 3 that are not: 3\.png \(.*more than max_pixels=178956970.*--skip-bad"):
        open(root)
    assert np.array_equal(open(root, skip_bad=True).raw(), pixels)


def test_constant_images_are_refused(tmp_path: Path, write_image: Write) -> None:
    for index in range(3):
        write_image(tmp_path / "d" / f"{index}.png", np.full((8, 6, 3), 7, np.uint8))
    with pytest.raises(DataError, match="The data must vary, found the value 7 everywhere"):
        open(tmp_path / "d")


def test_files_that_cannot_be_read(make_folder: Make) -> None:
    root, pixels = make_folder(["1.png", "2.png", "3.png", "4.png"], size=(32, 32))
    (root / "2.png").write_bytes((root / "2.png").read_bytes()[:700])  # the header is whole
    (root / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"found 1 of 4 that are not: 3\.png \(cannot identify"):
        open(root)
    for cache in (True, True, False):
        data = open(root, skip_bad=True, cache=cache)
        assert data.names == ["1.png", "4.png"]
        assert np.array_equal(data.raw(), pixels[[0, 3]])
        assert any(note.startswith("Files left out because they cannot be read: 2, 2.png (") for note in data.notes)
    (root / "1.png").write_bytes(b"")
    (root / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"4 of 4 that are not.*Choose another"):
        open(root, skip_bad=True)


def test_32_bit_pixels_are_named(tmp_path: Path) -> None:
    Image.new("F", (3, 2), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif \(pixels of the mode 'F' \(32-bit\)"):
        open(tmp_path / "a.tif")


def test_options_that_cannot_be(make_folder: Make) -> None:
    root, _ = make_folder(["1.png"])
    for option, match in (
        ({"size": 0}, "`size`"),
        ({"size": (3, 4, 5)}, "`size`"),
        ({"fit": "x"}, "`fit`"),
        ({"channels": 2}, "1 "),
    ):
        with pytest.raises(ConfigError, match=match):
            open(root, **option)


def test_conform_says_what_differs(make_folder: Make, write_image: Write) -> None:
    root, pixels = make_folder(["a/1.png", "b/2.png"])
    schema = open(root).schema
    other = root.parent / "other"
    write_image(other / "b" / "1.png", pixels[0][:4])
    with pytest.raises(DataError, match=r"8 x 6 pixels, as those of the model, found 4 x 6.*--size 8x6"):
        conform(other, schema)
    assert conform(other, schema, size=(8, 6)).columns["label"].tolist() == [1]
    with pytest.raises(DataError, match=r"`size` must be \(8, 6\)"):
        conform(other, schema, size=9)
    write_image(other / "b" / "1.png", pixels[0][..., 0])
    with pytest.raises(DataError, match=r"3 channels, as those of the model, found 1.*--channels 3"):
        conform(other, schema)
    write_image(other / "b" / "1.png", pixels[0])
    write_image(other / "z" / "1.png", pixels[0])
    found = conform(other, schema)
    assert found.columns["label"].tolist() == [1, -1]
    assert "no known category (z)" in found.notes[-1]
    with pytest.raises(DataError, match="must be vectors of 3 values, found images"):
        conform(root, open(np.eye(3)).schema)
    assert np.array_equal(conform(pixels, schema).x, open(root).x)


def test_the_cache_serves_the_same_data(make_folder: Make, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pixels = make_folder(["a/1.png", "b/2.png"])
    (root / "notes.txt").write_text("x")
    first = open(root)
    assert isinstance(first.x, np.memmap)
    monkeypatch.setattr(images_module, "_build", None)  # decoding again would fail
    second = open(root)
    assert np.array_equal(second.x, first.x)
    assert np.array_equal(second.raw(), pixels)
    assert (second.schema, second.names, second.notes) == (first.schema, first.names, first.notes)
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".npy"]


def test_a_changed_source_is_decoded_again(make_folder: Make, cache: Path, write_image: Write) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    open(root)
    stat = (root / "2.png").stat()
    write_image(root / "2.png", 255 - pixels[1])
    os.utime(root / "2.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert np.array_equal(open(root).raw()[1], 255 - pixels[1])
    (root / "1.png").unlink()
    assert len(open(root)) == 1
    assert len(list(cache.glob("*.npy"))) == 1  # what the folder was before is gone
    assert open(root, size=4).schema.shape == (3, 4, 4)
    assert len(list(cache.glob("*.npy"))) == 2


@pytest.mark.parametrize("where", ["decode", "commit", "record"])
def test_a_build_that_dies_leaves_no_wrong_data(
    make_folder: Make, cache: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    root, pixels = make_folder(["1.png", "2.png"])

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "decode":
            patch.setattr(images_module, "decode", die)
        elif where == "commit":
            patch.setattr(disk.os, "replace", die)
        else:
            real = os.replace
            patch.setattr(disk.os, "replace", lambda a, b: die() if str(b).endswith(".json") else real(a, b))
        with pytest.raises(KeyboardInterrupt):
            open(root)
    assert not list(cache.glob("*.json"))
    assert not list(cache.glob("*.tmp"))
    assert np.array_equal(open(root).raw(), pixels)


def test_damaged_entries_are_built_again(make_folder: Make, cache: Path) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    open(root)
    array, record = next(cache.glob("*.npy")), next(cache.glob("*.json"))
    array.write_bytes(array.read_bytes()[:-5])
    assert np.array_equal(open(root).raw(), pixels)
    record.write_text(record.read_text()[:-5])
    assert np.array_equal(open(root).raw(), pixels)
    record.write_text(json.dumps({"shape": [1], "dtype": "uint8"}))
    assert np.array_equal(open(root).raw(), pixels)
    array.unlink()
    assert np.array_equal(open(root).raw(), pixels)


def test_two_builders_at_once(make_folder: Make, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    real, inner = images_module._decode_into, []

    def second_builder_finishes_first(*args: object) -> dict[int, str]:
        if not inner:
            inner.append(None)
            inner[0] = open(root)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(images_module, "_decode_into", second_builder_finishes_first)
    outer = open(root)
    assert np.array_equal(outer.raw(), pixels)
    assert np.array_equal(inner[0].raw(), pixels)
    assert np.array_equal(open(root).raw(), pixels)
    assert len(list(cache.iterdir())) == 2


def test_a_full_disk_and_no_cache(make_folder: Make, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pixels = make_folder(["1.png", "2.png"])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_reserve", full)
        data = open(root)
        assert "held in memory: they could not be cached in" in data.notes[0]
        assert "No space left on device" in data.notes[0]
        assert np.array_equal(data.raw(), pixels)
        assert not list(cache.iterdir())
    assert open(root, cache=False).notes == ()
    assert not list(cache.iterdir())
    monkeypatch.delenv("VAEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "xdg"))
    assert disk.cache_folder() == cache / "xdg" / "vaekit"


def test_many_threads_and_many_chunks(make_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_module, "_CHUNK_FILES", 3)
    root, pixels = make_folder([f"{index}.png" for index in range(20)])
    assert np.array_equal(open(root, workers=4, cache=False).raw(), pixels)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in root.iterdir():
            archive.write(path, path.name)
    (root.parent / "z").write_bytes(packed.getvalue())
    assert np.array_equal(open(root.parent / "z", workers=4).raw(), pixels)


def test_what_killed_processes_left_goes_after_a_day(make_folder: Make, cache: Path) -> None:
    root, _ = make_folder(["1.png"])
    cache.mkdir()
    for name, age in (("old.tmp", 90_000), ("new.tmp", 10)):
        (cache / name).write_text("x")
        when = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (when, when))
    open(root)
    assert [path.name for path in cache.glob("*.tmp")] == ["new.tmp"]


def test_a_process_that_is_killed_leaves_no_wrong_data(make_folder: Make, cache: Path) -> None:
    root, pixels = make_folder(["1.png", "2.png"])
    code = (
        "import os, sys, vaekit.data.images as images, vaekit.data.loading as loading\n"
        "images._finish = lambda *_: os.kill(os.getpid(), 9)\n"
        "loading.open(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], check=False, env={**os.environ, "VAEKIT_CACHE": str(cache)})
    assert done.returncode == -signal.SIGKILL
    assert [path.suffix for path in cache.iterdir()] == [".tmp"]
    assert np.array_equal(open(root).raw(), pixels)
