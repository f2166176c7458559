"""Pixels of every kind of image file."""
import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, features

from iebn_zoo.data.formats import CorruptImageError, decode, image_suffixes, to_mode
from iebn_zoo.util.errors import IEBNZooError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(image, kind, **kwargs):
    file = io.BytesIO()
    image.save(file, kind, **kwargs)
    file.seek(0)
    return file


def pixels(file, mode='L'):
    image = decode(file, mode, 'x')
    assert image.mode == mode
    return np.asarray(image)


def test_the_usual_suffixes_are_images_and_no_documents():
    suffixes = image_suffixes()
    assert suffixes >= {'.png', '.jpg', '.jpeg', '.jfif', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.ppm'}
    assert ('.avif' in suffixes) == features.check('avif')
    assert not suffixes & {'.eps', '.ps', '.pdf', '.wmf', '.mpg', '.h5', '.txt', '.json', '.npy', ''}


LOSSLESS = {kind: {} for kind in ('png', 'bmp', 'tiff', 'gif', 'ppm', 'tga')}
LOSSLESS['webp'] = {'lossless': True, 'exact': True}


@pytest.mark.parametrize('kind', LOSSLESS)
def test_lossless_formats_keep_their_pixels(kind):
    file = saved(Image.fromarray(RAMP), kind, **LOSSLESS[kind])
    np.testing.assert_array_equal(pixels(file), RAMP)


@pytest.mark.parametrize('kind', ['jpeg', *(['avif'] if features.check('avif') else [])])
def test_lossy_formats_are_near(kind):
    file = saved(Image.fromarray(np.repeat(RAMP[:, :, None], 3, 2)).resize((64, 64)), kind, quality=95)
    assert abs(pixels(file, 'RGB').mean() - RAMP.mean()) < 4


def test_the_first_frame_of_an_animation():
    frames = [Image.new('L', (4, 4), value) for value in (10, 200)]
    for kind in ('gif', 'webp', 'tiff'):
        file = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert abs(int(pixels(file).mean()) - 10) <= 2, kind


def test_sixteen_bits_are_scaled_and_not_clipped():
    wide = RAMP.astype(np.uint16) * 257
    for kind in ('png', 'tiff'):
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(wide), kind)), RAMP)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(RAMP.astype(np.int32) * 257), 'tiff')), RAMP)
    rgb = pixels(saved(Image.fromarray(wide), 'png'), 'RGB')
    np.testing.assert_array_equal(rgb, np.repeat(RAMP[:, :, None], 3, 2))


def test_integers_of_32_bits_are_scaled_by_the_range_that_holds_them():
    for value in (np.zeros_like(RAMP), RAMP, RAMP.clip(0, 200)):
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(value.astype(np.int32)), 'tiff')), value)
        np.testing.assert_array_equal(np.asarray(to_mode(Image.fromarray(value.astype(np.int32)), 'L')), value)
    dark = (RAMP // 2).astype('>u2')  # of 16 bits, so that the same numbers are next to black
    height, width = dark.shape
    file = io.BytesIO(b'P5 %d %d 65535\n' % (width, height) + dark.tobytes())
    assert Image.open(file).mode == 'I' and pixels(file).max() == 0
    assert pixels(saved(Image.fromarray((RAMP // 2).astype(np.uint16)), 'png')).max() == 0
    with pytest.raises(CorruptImageError, match='samples are from 0 to 70000'):
        pixels(saved(Image.fromarray(np.array([[0, 70000]], np.int32)), 'tiff'))


@pytest.mark.parametrize('scale', [1 / 255, 1, 257])
def test_floats_are_scaled_by_the_range_that_holds_them(scale):
    file = saved(Image.fromarray(RAMP.astype(np.float32) * np.float32(scale)), 'tiff')
    np.testing.assert_array_equal(pixels(file), RAMP)


@pytest.mark.parametrize('value', [-1.0, 1e6, float('nan'), float('inf')])
def test_floats_without_a_known_range_are_an_error_that_names_them(value):
    samples = RAMP.astype(np.float32)
    samples[3, 4] = value
    with pytest.raises(CorruptImageError, match='cannot decode the image x: its samples are from'):
        pixels(saved(Image.fromarray(samples), 'tiff'))


def test_what_is_transparent_is_laid_on_white():
    clear = Image.new('RGBA', (3, 1), (200, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 255))
    clear.putpixel((2, 0), (200, 0, 0, 128))
    expected = [[255, 255, 255], [200, 0, 0], [227, 127, 127]]
    for kind in ('png', 'webp', 'tiff'):
        file = saved(clear, kind, **({'lossless': True, 'exact': True} if kind == 'webp' else {}))
        np.testing.assert_allclose(pixels(file, 'RGB')[0], expected, atol=1)
    palette = Image.new('P', (2, 1))
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(saved(palette, 'png', transparency=0), 'RGB')[0], [[255] * 3, [0, 200, 0]])
    np.testing.assert_array_equal(pixels(saved(palette, 'gif', transparency=0), 'RGB')[0], [[255] * 3, [0, 200, 0]])
    grey = Image.new('LA', (2, 1), (50, 0))
    grey.putpixel((1, 0), (50, 255))
    np.testing.assert_array_equal(pixels(saved(grey, 'png'))[0], [255, 50])


def png(samples, depth, clear):
    """A PNG of one row, grey or RGB, whose samples equal to ``clear`` are transparent; Pillow writes no such files."""
    def chunk(kind, data):
        return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')

    array = np.array(samples)
    bits = ''.join(f'{sample:0{depth}b}' for sample in array.flatten())
    row = b'\0' + int(bits.ljust(-len(bits) % 8 + len(bits), '0'), 2).to_bytes(-(-len(bits) // 8), 'big')
    head = len(array).to_bytes(4, 'big') + bytes([0, 0, 0, 1, depth, 0 if array.ndim == 1 else 2, 0, 0, 0])
    clear = np.array(clear, '>u2').tobytes()
    return io.BytesIO(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'tRNS', clear) + chunk(
        b'IDAT', zlib.compress(row)) + chunk(b'IEND', b''))


@pytest.mark.parametrize('depth, samples, clear, expected', [
    (1, [0, 1, 0], 0, [255, 255, 255]), (1, [0, 1, 0], 1, [0, 255, 0]),
    (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]), (4, [0, 3, 10, 15], 3, [0, 255, 170, 255]),
    (8, [0, 100, 200], 100, [0, 255, 200]), (16, [0, 25700, 25701, 51400], 25700, [0, 255, 100, 200]),
    (8, [[10, 20, 30], [20, 10, 30]], [10, 20, 30], [[255] * 3, [20, 10, 30]]),
    # Pillow reads the high bytes alone; the second colour has the low bytes of the transparent one
    (16, [[25610, 5140, 7710], [2560, 5120, 7680]], [25610, 5140, 7710], [[255] * 3, [10, 20, 30]]),
], ids=str)
def test_the_transparent_colour_of_a_png_of_any_depth_is_white(depth, samples, clear, expected):
    rgb = np.array([[v] * 3 for v in expected] if isinstance(expected[0], int) else expected)
    np.testing.assert_array_equal(pixels(png(samples, depth, clear), 'RGB')[0], rgb)
    grey = np.asarray(Image.fromarray(rgb.astype(np.uint8)[None]).convert('L'))
    np.testing.assert_array_equal(pixels(png(samples, depth, clear)), grey)


@pytest.mark.parametrize('alpha, expected', [(True, [[255] * 3, [0, 200, 0], [127, 127, 227]]),
                                             (False, [[200, 0, 0], [0, 200, 0], [0, 0, 200]])])
def test_a_palette_with_alpha_is_laid_on_white(alpha, expected):
    colours = [(0, 0, 200, 0), (0, 200, 0, 255), (200, 0, 0, 128)]  # blue, green, red, alpha
    palette = b''.join(bytes(colour[:3 + alpha]) for colour in colours)
    head = bytes([0, 1, 1, 0, 0, 3, 0, 24 + 8 * alpha, 0, 0, 0, 0, 3, 0, 1, 0, 8, 32])
    np.testing.assert_array_equal(pixels(io.BytesIO(head + palette + bytes([0, 1, 2])), 'RGB')[0], expected)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_photograph_stands_upright(orientation):
    upright = Image.new('RGB', (32, 48), 'white')
    ImageDraw.Draw(upright).rectangle((0, 0, 15, 15), fill='red')
    turned = {1: upright, 2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
              3: upright.transpose(Image.Transpose.ROTATE_180), 4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
              5: upright.transpose(Image.Transpose.TRANSPOSE), 6: upright.transpose(Image.Transpose.ROTATE_90),
              7: upright.transpose(Image.Transpose.TRANSVERSE), 8: upright.transpose(Image.Transpose.ROTATE_270)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ('jpeg', 'png'):
        found = pixels(saved(turned[orientation], kind, exif=exif), 'RGB')
        assert found.shape == (48, 32, 3)
        assert found[4, 4, 1] < 60 and found[4, 28, 1] > 200 and found[44, 4, 1] > 200, kind


def test_other_colour_spaces_become_rgb():
    for mode, kind in (('CMYK', 'jpeg'), ('CMYK', 'tiff'), ('YCbCr', 'jpeg'), ('1', 'png'), ('P', 'png'), ('L', 'bmp')):
        image = Image.new('RGB', (2, 2), 'white').convert(mode)
        assert (pixels(saved(image, kind), 'RGB') > 250).all(), mode
    grey = Image.new('RGB', (2, 2), (90, 90, 90)).convert('LAB')
    for mode in ('RGB', 'L'):
        np.testing.assert_allclose(pixels(saved(grey, 'tiff'), mode), 90, atol=3)


KINDS = ['png', 'jpeg', 'webp', 'bmp', 'tiff', 'gif', 'ppm', 'tga', 'jpeg2000', *(
    ['avif'] if features.check('avif') else [])]


@pytest.mark.parametrize('kind', KINDS)
def test_damage_of_any_kind_in_any_format_is_a_corrupt_image(kind):
    content = saved(Image.fromarray(np.repeat(RAMP[:, :, None], 3, 2)), kind).getvalue()
    rng = np.random.default_rng(0)
    damaged = [content[:n] for n in (0, 1, len(content) // 3, len(content) // 2)]
    for _ in range(60):
        noisy = bytearray(content)
        for at in rng.integers(0, len(content), 6):
            noisy[at] = rng.integers(256)
        damaged.append(bytes(noisy))
    refused = 0
    for variant in damaged:
        try:
            pixels(io.BytesIO(variant), 'RGB')  # pixels may have changed without anybody being able to tell
        except CorruptImageError as e:
            refused += 1
            assert len(str(e).splitlines()) == 2 and 'cannot decode the image x: ' in str(e)
    assert refused >= 2


def test_a_postscript_file_is_not_run_whatever_it_is_called():
    with pytest.raises(CorruptImageError):
        pixels(io.BytesIO(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n'))


@pytest.mark.parametrize('error, corrupt', [
    (MemoryError(), False), (OSError(13, 'Permission denied'), False), (OSError(24, 'Too many open files'), False),
    (OSError('truncated'), True), (ZeroDivisionError('x'), True), (RecursionError(), True)])
def test_what_the_decoder_throws(error, corrupt):
    class File(io.BytesIO):
        def read(self, *args):
            raise error

    with pytest.raises(IEBNZooError) as e:
        pixels(File(b'x'))
    assert isinstance(e.value, CorruptImageError) == corrupt


def test_an_image_is_opened_as_training_opens_it(tmp_path):
    import iebn_zoo
    turned = Image.fromarray(np.repeat(RAMP[:8, :, None], 3, 2))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / 'x.png', exif=exif)
    image = iebn_zoo.open_image(tmp_path / 'x.png')
    assert (image.mode, image.size) == ('RGB', (8, 16))
    np.testing.assert_array_equal(np.asarray(image), pixels(tmp_path / 'x.png', 'RGB'))
    assert iebn_zoo.open_image(str(tmp_path / 'x.png'), 'L').mode == 'L'
    with pytest.raises(IEBNZooError, match='no image at .*y.png'):
        iebn_zoo.open_image(tmp_path / 'y.png')
    (tmp_path / 'z.png').write_bytes(b'x')
    with pytest.raises(CorruptImageError, match='z.png: its content is of no format that Pillow reads'):
        iebn_zoo.open_image(tmp_path / 'z.png')
