"""Corruptions are their definitions, grow with severity, and depend on seed and image alone."""

import pytest
import torch
from archzoo.train.measures.corruptions import CORRUPTIONS, SEVERITIES, corrupt, strength

from ...tiers import tiered

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise")
SIDES = {"small": (8, 8), "odd": (7, 13), "line": (1, 5), "large": (80, 72)}


def images(count=3, channels=3, size=(16, 16), dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, *size, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("sides", tiered(SIDES, ("odd",)))
def test_shape_dtype_and_range_are_kept(name, channels, sides):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = images(2, channels, SIDES[sides], dtype)
        before = x.clone()
        for severity in (1, 5):
            y = corrupt(x, name, severity)
            assert y.shape == x.shape and y.dtype == dtype
            assert float(y.min()) >= 0 and float(y.max()) <= 1
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name):
    x = images(8, size=(32, 32))
    distances = [float((corrupt(x, name, s) - x).square().mean()) for s in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(distances) and len(set(distances)) == 5


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_any_batch_and_layout(name):
    x = images(5)
    whole = corrupt(x, name, 3, seed=4)
    parts = [corrupt(x[a:b], name, 3, seed=4, first=a) for a, b in ((0, 2), (2, 5))]
    assert torch.equal(whole, torch.cat(parts))
    last = corrupt(x.contiguous(memory_format=torch.channels_last), name, 3, seed=4)
    torch.testing.assert_close(whole, last, rtol=0, atol=1e-12)
    other = corrupt(x, name, 3, seed=5)
    assert torch.equal(whole, other) == (name not in RANDOM)


def test_the_blur_is_that_of_scipy():
    from scipy.ndimage import gaussian_filter

    for size in ((16, 16), (80, 72)):
        x = images(1, size=size)
        for severity in SEVERITIES:
            c = strength("gaussian_blur", severity, max(size))
            expected = gaussian_filter(x[0].numpy(), (0, c, c), mode="nearest", truncate=4.0)
            found = corrupt(x, "gaussian_blur", severity)[0]
            torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_brightness_adds_to_the_value_of_hsv():
    import colorsys

    x = images(1, size=(4, 4))
    x[0, :, 0, 0] = 0.0
    y = corrupt(x, "brightness", 3)
    for row in range(4):
        for column in range(4):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + 0.15))
            assert y[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-12)


def test_contrast_shrinks_towards_the_mean_of_each_channel():
    x = images(2)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(corrupt(x, "contrast", 5), mean + 0.15 * (x - mean))


def test_noise_has_the_moments_of_its_definition():
    x = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    # Large images, where c is 0.08 and 60; the bounds are five standard errors of 40,000 draws.
    normal, shot = (corrupt(x, name, 1) - 0.5 for name in ("gaussian_noise", "shot_noise"))
    for noise, deviation in ((normal, 0.08), (shot, (0.5 / 60) ** 0.5)):
        assert abs(float(noise.mean())) < 5 * deviation / 200
        assert float(noise.std()) == pytest.approx(deviation, rel=5 / 280)
    hit = corrupt(x, "impulse_noise", 5)
    assert float((hit == 1).double().mean()) == pytest.approx(0.27 / 2, abs=5 * 0.35 / 200)
    assert float((hit == 0).double().mean()) == pytest.approx(0.27 / 2, abs=5 * 0.35 / 200)


def test_pixelate_and_jpeg_are_those_of_pil():
    import io

    import numpy as np
    from PIL import Image

    x = (images(1, size=(32, 32)) * 255).round() / 255
    image = Image.fromarray((x[0] * 255).round().permute(1, 2, 0).numpy().astype(np.uint8))
    small = image.resize((27, 27), Image.Resampling.BOX)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=58)
    expected = {
        "pixelate": small.resize((32, 32), Image.Resampling.BOX),
        "jpeg_compression": Image.open(stream),
    }
    for name, picture in expected.items():
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).double() / 255
        torch.testing.assert_close(corrupt(x, name, 3)[0], pixels, rtol=0, atol=1e-12)


def test_nothing_stays_nothing():
    assert corrupt(torch.zeros(0, 3, 8, 8), "contrast", 1).shape == (0, 3, 8, 8)


BAD = {
    "no corruption named 'gauss_blur'; did you mean 'gaussian_blur'": (images(), "gauss_blur", 1),
    "severity must be one of 1, 2, 3, 4, 5, got 0": (images(), "contrast", 0),
    r"images \(N, C, H, W\), got shape \(3, 4\)": (torch.zeros(3, 4), "contrast", 1),
    r"pixels must lie in \[0, 1\], got 0 to 255": (
        torch.tensor([0.0, 255.0]).view(1, 1, 1, 2), "contrast", 1,
    ),
    r"pixels must lie in \[0, 1\], got nan": (torch.full((1, 1, 2, 2), torch.nan), "contrast", 1),
}  # fmt: skip


@pytest.mark.parametrize(("message", "case"), BAD.items())
def test_what_is_no_image_or_no_corruption_is_refused(message, case):
    with pytest.raises(ValueError, match=message):
        corrupt(*case)
