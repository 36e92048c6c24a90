import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scanomaly.data import images
from scanomaly.data.images import as_image, fit_window, is_deep, read_image, read_mask
from scanomaly.errors import DataError

HEIGHT, WIDTH = 12, 17
RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
DEEP_COLOUR = RANDOM.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)


@pytest.fixture(autouse=True)
def _each_warning_counts():
    images._warn_once.cache_clear()


def tripled(grey):
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "TIFF"])
def test_grey_gives_three_equal_channels(save, suffix):
    image = read_image(save(f"x.{suffix}", GREY))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, tripled(GREY))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_dropped_not_composited(save, suffix):
    np.testing.assert_array_equal(read_image(save(f"x.{suffix}", COLOUR)), COLOUR[..., :3])
    grey_alpha = np.stack([GREY, GREY // 2], axis=2)
    np.testing.assert_array_equal(read_image(save(f"y.{suffix}", grey_alpha)), tripled(GREY))


def test_jpeg_is_pillows(save):
    path = save("x.jpg", COLOUR[..., :3])
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path).convert("RGB")))


def test_palette_gives_its_colours(tmp_path):
    image = Image.fromarray(GREY // 64).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255, 7, 7, 7])
    image.save(tmp_path / "x.png", transparency=b"\x00\x80\xff\xff")
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 255], [7, 7, 7]], dtype=np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), colours[GREY // 64])


def test_one_bit(tmp_path):
    Image.fromarray(GREY > 127).save(tmp_path / "x.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "x.png"), tripled((GREY > 127) * np.uint8(255))
    )


DEEP_FILES = {
    "grey16.png": DEEP,
    "grey16.tif": DEEP,
    "colour16.png": DEEP_COLOUR,
    "colour16.tif": DEEP_COLOUR,
    "grey_float.tif": DEEP.astype(np.float32),
    "grey_double.tif": DEEP.astype(np.float64),
    "colour_float.tif": DEEP_COLOUR.astype(np.float32),
    "grey_int.tif": DEEP.astype(np.int32),
}


def save_deep(path: Path, pixels) -> Path:
    """OpenCV writes every depth; it takes blue first."""
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else pixels[..., ::-1])
    return path


@pytest.mark.parametrize("name", DEEP_FILES)
def test_deep_images_keep_their_depth(tmp_path, name):
    pixels = DEEP_FILES[name]
    path = save_deep(tmp_path / name, pixels)
    image = read_image(path, window=(0, 65535))
    expected = pixels if pixels.ndim == 3 else tripled(pixels)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image * 65535.0, expected, atol=0.01)
    assert is_deep(path)


def test_deep_alpha_is_dropped(tmp_path):
    pixels = np.concatenate([DEEP_COLOUR, DEEP[..., None]], axis=2)
    cv2.imwrite(str(tmp_path / "x.png"), pixels[..., [2, 1, 0, 3]])
    image = read_image(tmp_path / "x.png", window=(0, 65535))
    np.testing.assert_allclose(image * 65535.0, DEEP_COLOUR, atol=0.01)


def test_signed_intensities(save):
    hounsfield = DEEP.astype(np.int32) // 32 - 1024
    image = read_image(save("x.tif", hounsfield), window=(-200, 250))
    expected = np.clip((hounsfield + 200) / 450, 0, 1)
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-6)


def test_white_is_zero_is_turned_round(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "x.tif", tiffinfo={262: 0})
    image = read_image(tmp_path / "x.tif", window=(0, 65535))
    np.testing.assert_allclose(image[..., 0] * 65535.0, 65535 - DEEP.astype(float), atol=0.01)
    Image.fromarray(DEEP.astype(np.float32)).save(tmp_path / "y.tif", tiffinfo={262: 0})
    with pytest.raises(DataError, match="export it as MinIsBlack"):
        read_image(tmp_path / "y.tif", window=(0, 65535))


def test_deep_image_needs_a_window(tmp_path):
    path = save_deep(tmp_path / "x.png", DEEP)
    with pytest.raises(DataError, match=r"x\.png: has .* from .*--set data\.window=\[LOW,HIGH\]"):
        read_image(path)
    with pytest.raises(DataError, match="the lower one first, got 5, 5"):
        read_image(path, window=(5, 5))


def test_window_leaves_8_bits_alone(save):
    np.testing.assert_array_equal(read_image(save("x.png", GREY), (0, 4095)), tripled(GREY))


def test_cut_intensities_are_reported_once(tmp_path, caplog):
    path = save_deep(tmp_path / "x.png", DEEP)
    share = ((DEEP < 1000) | (DEEP > 50000)).mean()
    read_image(path, window=(1000, 50000))
    read_image(path, window=(1000, 50000))
    assert len(caplog.records) == 1
    assert f"{share:.1%} of its pixels" in caplog.text
    read_image(path, window=(0, 65535))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif", "x.bmp"])
def test_truncated(save, name):
    path = save(name, RANDOM.integers(0, 256, (64, 64), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"x\.\w+: expected an image, but it is damaged"):
        read_image(path)


@pytest.mark.parametrize("name", ["colour16.png", "colour16.tif", "colour_float.tif"])
def test_truncated_deep_image(tmp_path, name):
    path = save_deep(tmp_path / name, DEEP_FILES[name])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        read_image(path, window=(0, 65535))


def test_truncated_pixels_behind_a_whole_header(tmp_path):
    """OpenCV alone reads float colour; its TIFFs end with the header, so this one is hand-made."""
    pixels = RANDOM.random((HEIGHT, WIDTH, 3)).astype("<f4")
    tags = [
        *((256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 3, 134), (259, 3, 1, 1)),
        *((262, 3, 1, 2), (273, 4, 1, 146), (277, 3, 1, 3), (278, 3, 1, HEIGHT)),
        *((279, 4, 1, pixels.nbytes), (339, 3, 3, 140)),
    ]
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    header += b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    data = header + struct.pack("<6H", 32, 32, 32, 3, 3, 3) + pixels.tobytes()
    (tmp_path / "x.tif").write_bytes(data)
    np.testing.assert_allclose(read_image(tmp_path / "x.tif", (0, 1)), pixels, atol=1e-6)
    (tmp_path / "x.tif").write_bytes(data[:-1000])
    with pytest.raises(DataError, match="damaged"):
        read_image(tmp_path / "x.tif", (0, 1))


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(DataError, match=r"empty\.png: expected an image, got an empty file"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(DataError, match=r"text\.png: .*no image format recognised"):
        read_image(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        read_image(tmp_path / "gone.png")


def test_one_pixel(save):
    with pytest.raises(DataError, match=r"x\.png: expected at least 8x8 pixels, got 1x1"):
        read_image(save("x.png", GREY[:1, :1]))


def test_all_black_is_allowed_and_reported(save, caplog):
    image = read_image(save("x.png", np.zeros_like(GREY)))
    assert image.max() == 0
    assert "x.png: every pixel is 0" in caplog.text


def test_pages(tmp_path):
    page = Image.fromarray(GREY)
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page, page])
    with pytest.raises(DataError, match="expected one image, got 3 pages"):
        read_image(tmp_path / "x.tif")


def test_nan_in_a_file(save):
    pixels = DEEP.astype(np.float32)
    pixels[2, 3] = np.nan
    with pytest.raises(DataError, match="got 1 that are NaN or infinite"):
        read_image(save("x.tif", pixels), window=(0, 65535))


@pytest.mark.parametrize(
    "array",
    [GREY, GREY[..., None], tripled(GREY), np.dstack([tripled(GREY), COLOUR[..., 3]])],
    ids=["(H, W)", "(H, W, 1)", "(H, W, 3)", "(H, W, 4)"],
)
def test_arrays_of_every_shape(array):
    np.testing.assert_array_equal(as_image(array), tripled(GREY))


def test_arrays_of_every_kind():
    np.testing.assert_array_equal(as_image(GREY > 127), tripled((GREY > 127) * np.uint8(255)))
    for kind in (np.float16, np.float32, np.float64):
        image = as_image((GREY / 255).astype(kind))
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, tripled(GREY / 255), atol=1e-3)
    for kind in (np.uint16, np.int32, np.int64, np.float32):
        image = as_image(GREY.astype(kind), window=(0, 255))
        np.testing.assert_allclose(image, tripled(GREY / 255), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 9), np.nan), "mine: expected finite values, got 81"),
        (np.full((9, 9), np.inf), "NaN or infinite"),
        (np.zeros((9, 9, 2)), r"expected an array of shape \(H, W\), .*got \(9, 9, 2\)"),
        (np.zeros((9, 9, 5)), "give one image at a time"),
        (np.zeros((3, 9, 9)), r"numpy\.moveaxis\(array, 0, -1\)"),
        (np.zeros((1, 9, 9, 3)), r"got \(1, 9, 9, 3\)"),
        (np.zeros(9), r"got \(9,\)"),
        (np.zeros((0, 0)), "at least 8x8 pixels, got 0x0"),
        (np.zeros((1, 1)), "got 1x1"),
        (GREY.astype(np.int64), r"has int64 intensities .*window=\(LOW, HIGH\) in Python"),
        (GREY.astype(np.float32), "expected 8 bits"),
        (GREY - 0.5, "expected 8 bits"),
        (GREY.astype(complex), "expected numbers, got dtype complex128"),
        ([[1, 2], [3, 4]], "expected a numpy array, got list"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(DataError, match=message):
        as_image(array, name="mine")


def test_window_of_8_bit_images_is_none(save):
    assert fit_window([save("x.png"), save("y.jpg"), save("z.tif")]) is None
    assert fit_window([]) is None


def test_window_is_fitted_and_deterministic(tmp_path):
    pixels = [RANDOM.normal(1000, 100, (40, 40)).astype(np.uint16) for _ in range(5)]
    pixels[0][0, 0] = 65535
    paths = [save_deep(tmp_path / f"{i}.png", array) for i, array in enumerate(pixels)]
    window = fit_window(paths)
    assert window == tuple(np.percentile(np.stack(pixels), (0.1, 99.9)))
    assert fit_window(paths[::-1]) == window


def test_window_sample_is_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "WINDOW_IMAGES", 3)
    monkeypatch.setattr(images, "WINDOW_PIXELS", 50)
    arrays = [DEEP + np.uint16(i) for i in range(7)]
    paths = [save_deep(tmp_path / f"{i}.png", array) for i, array in enumerate(arrays)]
    step = DEEP.size // 50
    sample = np.concatenate([arrays[i].reshape(-1)[::step] for i in (0, 3, 6)])
    assert fit_window(paths) == tuple(np.percentile(sample, (0.1, 99.9)))


def test_window_of_mixed_and_blank_images(tmp_path, save, caplog):
    deep = save_deep(tmp_path / "deep.png", DEEP)
    assert fit_window([deep, save("x.png")]) == fit_window([deep])
    assert "1 of 2 images have more than 8 bits" in caplog.text
    blank = save_deep(tmp_path / "blank.png", np.full_like(DEEP, 7))
    with pytest.raises(DataError, match="nearly all pixels are 7"):
        fit_window([blank])


def test_any_positive_value_of_any_channel_is_abnormal(save, tmp_path):
    truth = GREY > 200
    faint = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    faint[..., 3] = 255
    faint[truth, 2] = 1
    deep = truth.astype(np.uint16)
    paths = [
        save("grey.png", truth * np.uint8(1)),
        save("alpha.png", faint),
        save_deep(tmp_path / "deep.png", deep),
        save_deep(tmp_path / "colour.png", np.dstack([0 * deep, 0 * deep, deep])),
        save("float.tif", truth.astype(np.float32) / 1000),
    ]
    for path in paths:
        mask = read_mask(path, (HEIGHT, WIDTH))
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, truth)


def test_mask_of_another_size(save):
    mask = save("mask.png", GREY)
    message = r"mask\.png: the mask has 12x17 pixels .*its image .*scan\.png has 12x12"
    with pytest.raises(DataError, match=message):
        read_mask(mask, (12, 12), Path("scan.png"))


def test_mask_with_nan(save):
    with pytest.raises(DataError, match="expected a mask of finite values"):
        read_mask(save("mask.tif", np.full((9, 9), np.nan, dtype=np.float32)), (9, 9))
