"""What a page on the web does with an uploaded image: the most probable classes, and the picture of the gates."""
import os
import re
import traceback
from dataclasses import dataclass
from typing import Dict, Optional

from PIL import Image

from iebn_zoo.data.formats import corrupt, decoded_formats
from iebn_zoo.plots.gates import image_gates_figure
from iebn_zoo.plots.style import as_image
from iebn_zoo.prediction.choice import Entry, NetworkCache, check_choice
from iebn_zoo.prediction.gates import Gates, depend_on_images, gates_in_words, gates_of, iebn_layers
from iebn_zoo.prediction.predict import Prediction, predictions
from iebn_zoo.prediction.tables import one_line, shortened
from iebn_zoo.util.errors import IEBNZooError, UsageError

MOST_BYTES = 10 << 20
MOST_PIXELS = 40_000_000
MOST_ASPECT = 100  # longer side by shorter side: a line of pixels becomes huge when its shorter side is resized
_DRAWN = (400, 400)  # px of the uploaded image in the picture of the gates, at most
_TOP = 5


@dataclass(frozen=True)
class Answer:
    """What the page shows of an image.

    Attributes:
        classes: Probability of each of the five most probable classes, by its name, in order.
        picture: Picture of the gates in each layer, or None where the network has none.
        text: Plain text: what was loaded, and what can be said of its gates.
    """

    classes: Dict[str, float]
    picture: Optional[Image.Image]
    text: str


def answer(cache: NetworkCache, name: Optional[str], path: Optional[str]) -> Answer:
    """Classify an uploaded image with the network that a visitor has named.

    Args:
        cache: The networks.
        name: See ``choice.check_choice``.
        path: The uploaded file, which the page chooses and not the visitor; None where there is none yet.

    Raises:
        UsageError: There is no image, it is too large, or the name is not allowed.
        IEBNZooError: The image or the weights cannot be used.
    """
    if not path:
        raise UsageError('there is no image yet.\nUpload one, and press Classify.')
    check_upload(path)
    entry = cache.get(check_choice(name or ''))
    with entry.lock:
        try:
            image = entry.predictor.open(path)
        except IEBNZooError as e:
            raise _without_place(e, path) from e
        if not iebn_layers(entry.predictor.model):
            found, = predictions(entry.predictor, [image], _TOP)
            return Answer(_by_name(found), None,
                          f'{_loaded(entry)}\nThis network has no IEBN layer, and so no gates to draw.')
        gates, probabilities = gates_of(entry.predictor, [image])
        trained = depend_on_images(entry.predictor.model)
    best, classes = probabilities[0].topk(min(_TOP, probabilities.shape[1]))
    names = entry.predictor.label_names
    labels = [str(c) if names is None else names[c] for c in classes.tolist()]
    found = Prediction('image 0', tuple(classes.tolist()), tuple(labels), tuple(best.tolist()))
    image.thumbnail(_DRAWN)
    by_name = _by_name(found)
    title = f'{next(iter(by_name))}\n{100 * found.probabilities[0]:.1f} %'
    figure = image_gates_figure([image], [title], {k: v.numpy() for k, v in gates.items()},
                                f'{entry.network.arch}: the gates that this image opens, layer by layer')
    return Answer(by_name, as_image(figure), f'{_loaded(entry)}\n{_said(gates, trained)}')


def answer_or_message(cache: NetworkCache, name: Optional[str], path: Optional[str]) -> Answer:
    """Do as ``answer`` does, but return an error as an answer that has only a text, for the page to show."""
    try:
        return answer(cache, name, path)
    except IEBNZooError as e:
        return Answer({}, None, str(e))
    except Exception:  # what a visitor did not cause is for whoever reads the log
        traceback.print_exc()
        return Answer({}, None, 'This went wrong in a way that was not foreseen; the log of the app says more.\n'
                                'Try another image or another network.')


def check_upload(path: str) -> None:
    """Raise UsageError if a file is too large by its bytes, or by the pixels and sides that its header tells.

    Raises:
        CorruptImageError: It is no image.
    """
    try:
        size = os.path.getsize(path)
    except OSError as e:
        raise IEBNZooError('the uploaded image is not there any more.\nUpload it again.') from e
    if size > MOST_BYTES:
        raise UsageError(f'the image has {size / 2 ** 20:.1f} MiB, expected at most {MOST_BYTES >> 20} MiB.\n'
                         f'Upload a smaller one.')
    try:
        with Image.open(path, formats=decoded_formats()) as image:  # reads the header alone
            pixels, aspect = image.width * image.height, max(image.size) / min(image.size)
    except Image.DecompressionBombError:  # Pillow has a limit of its own, far above ours
        pixels, aspect = MOST_PIXELS + 1, 1
    except Exception as e:  # every decoder has exceptions of its own
        raise _without_place(corrupt('that was uploaded', e), path) from e
    if pixels > MOST_PIXELS:
        raise UsageError(f'the image has more than {MOST_PIXELS / 1e6:.0f} million pixels.\nUpload a smaller one.')
    if aspect > MOST_ASPECT:
        raise UsageError(f'the longer side of the image is {aspect:.0f} times its shorter side, expected at most '
                         f'{MOST_ASPECT} times.\nUpload another one.')


def _without_place(error: IEBNZooError, path: str) -> IEBNZooError:
    # a visitor learns nothing of the directories of the machine, and the advice of the command line is not theirs
    text = str(error).splitlines()[0].replace(str(path), os.path.basename(path))
    return IEBNZooError(f'{text}\nUpload another image, such as a JPEG or a PNG.')


def _loaded(entry: Entry) -> str:
    return re.sub(r'@([0-9a-f]{8})[0-9a-f]{32}\b', r'@\1', entry.network.description)  # a commit, as people write it


def _by_name(found: Prediction) -> Dict[str, float]:
    shown: Dict[str, float] = {}
    for number, label, value in zip(found.classes, found.labels, found.probabilities, strict=True):
        name = shortened(one_line(label)) or f'class {number}'
        shown[f'{name} (class {number})' if name in shown else name] = value  # two classes may have one name
    return shown


def _said(gates: Gates, trained: bool) -> str:
    if not trained:
        return ('Its gates are the same for every image: each gate_weight is zero, as in weights that were trained '
                'with BatchNorm and converted. Fine-tuning lets them depend on the image.')
    return f'{len(gates)} IEBN layers; {gates_in_words(gates, trained)}.'
