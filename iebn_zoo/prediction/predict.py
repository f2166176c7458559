"""From images to classes."""
import itertools
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from PIL import Image
from timm.data.loader import fast_collate
from torch import nn

from iebn_zoo.data.formats import CorruptImageError, corrupt, decode, image_mode, open_image, to_mode
from iebn_zoo.data.transforms import make_transform
from iebn_zoo.prediction.source import open_source
from iebn_zoo.util.errors import UsageError
from iebn_zoo.weights.open import Network
from iebn_zoo.weights.settings import cfg_of, check_label_count, label_names_in, model_settings

Source = Union[str, Path, Network, nn.Module]
_ADVICE = {bytes: '; io.BytesIO(...) makes one of bytes.', torch.Tensor: ': give what the tensor was made of.'}
ImageLike = Union[str, Path, Image.Image, np.ndarray, BinaryIO]


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, in order.

    Attributes:
        image: Path of the image as it was given; ``image N``, counted from 0, for an image without a path.
        classes: Indices of the classes.
        labels: Names of the classes; the indices as text where the network has no names.
        probabilities: Softmax of the logits.
    """

    image: str
    classes: Tuple[int, ...]
    labels: Tuple[str, ...]
    probabilities: Tuple[float, ...]

    @property
    def label(self) -> str:
        """Label of the most probable class."""
        return self.labels[0]


class Predictor:
    """A network with what is needed to ask it about images.

    Args:
        source: See ``predict``.
        device: Device that runs the network. Default: that of an ``nn.Module``, and the CPU for any other source.

    Raises:
        UsageError: The source is no network, or takes images of another number of channels than 1 or 3.
    """

    def __init__(self, source: Source, device: Optional[torch.device] = None) -> None:
        if isinstance(source, nn.Module):
            self.model, names = source, cfg_of(source).get('label_names')
            self.data_config: Dict[str, Any] = model_settings(source, {})
        else:
            if not isinstance(source, (Network, str, Path)):
                raise UsageError(f'an object of type {type(source).__name__} is no network.\nExpected a path, a name '
                                 f'or an nn.Module; load a state dict into its model first.')
            network = source if isinstance(source, Network) else open_source(source)
            self.model, names, self.data_config = network.model, network.label_names, network.data_config
        shown = type(self.model).__name__
        self.label_names = label_names_in(names, shown)
        check_label_count(self.label_names, getattr(self.model, 'num_classes', 0), shown)
        parameter = next(self.model.parameters(), None)
        self.device = device or (parameter.device if parameter is not None else torch.device('cpu'))
        self._dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
        self.mode = image_mode(self.data_config['input_size'][0], shown)
        self.transform = make_transform(None, self.data_config)
        shape = (1, -1, 1, 1)
        self._mean = torch.tensor([255 * v for v in self.data_config['mean']], device=self.device).view(shape)
        self._std = torch.tensor([255 * v for v in self.data_config['std']], device=self.device).view(shape)

    def open(self, image: ImageLike) -> Image.Image:
        """Open an image in the mode of the network, as training sees it.

        Raises:
            CorruptImageError: It cannot be decoded.
            IEBNZooError: It cannot be read.
            UsageError: It is no image, or has no pixel.
        """
        if isinstance(image, (str, Path)):
            return open_image(image, self.mode)
        opened = self._open_object(image)
        if 0 in opened.size:
            raise UsageError('an image of {}x{} has no pixel.\nExpected a width and a height of at least 1.'.format(
                *opened.size))
        return opened

    def _open_object(self, image: Any) -> Image.Image:
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.ndim == 3 and image.shape[2] not in (3, 4):
                raise UsageError(f'an array of {image.dtype} and shape {image.shape} is no image.\n'
                                 f'Expected uint8 of (height, width), (height, width, 3) or (height, width, 4).')
            image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            try:
                return to_mode(image, self.mode)
            except (OSError, SyntaxError, ValueError) as e:  # Pillow may decode only now
                raise corrupt('that was given', e) from e
        if _is_file(image):
            return decode(image, self.mode, 'that was given')
        raise UsageError(f'an object of type {type(image).__name__} is no image.\nExpected a path, a PIL image, a '
                         f'NumPy array or an open binary file{_ADVICE.get(type(image), ".")}')

    @torch.inference_mode()
    def probabilities(self, images: List[Image.Image]) -> torch.Tensor:
        """Return the softmax of the logits, (B, classes), on the CPU.

        Args:
            images: Images from ``open``.

        Raises:
            UsageError: The network returns something else than logits (B, classes).
        """
        batch, _ = fast_collate([(self.transform(image), 0) for image in images])
        training = self.model.training
        self.model.eval()
        try:
            logits = self.model(batch.to(self.device).float().sub_(self._mean).div_(self._std).to(self._dtype))
        finally:
            self.model.train(training)
        kind = type(self.model).__name__
        if not isinstance(logits, torch.Tensor):
            raise UsageError(f'{kind} returns a {type(logits).__name__}, expected logits of shape (images, classes).\n'
                             f'Give a network with a classifier.')
        if logits.dim() != 2 or logits.shape[0] != len(images) or not logits.shape[1]:
            raise UsageError(f'{kind} returns a tensor of shape {tuple(logits.shape)} for {len(images)} images, '
                             f'expected logits of shape (images, classes).\nGive a network with a classifier.')
        return logits.float().softmax(1).cpu()


def predict(
        source: Source,
        images: Union[ImageLike, Iterable[ImageLike]],
        top_k: int = 5,
        batch_size: int = 32,
        device: Union[str, torch.device, None] = None,
) -> List[Prediction]:
    """Predict the most probable classes of images.

        for found in iebn_zoo.predict('iebn_resnet50.bn_a1_in1k', ['cat.jpg', 'dog.jpg']):
            print(found.image, found.label, found.probabilities[0])

    The images are prepared as the weights demand, and read as training reads them: any format that Pillow decodes,
    turned upright by their EXIF data, 16-bit samples scaled, what is transparent on white.

    Args:
        source: Directory of a training run or of an export, file of weights, ``local-dir:DIR``, ``hf-hub:ID``, name
            of a registered model with weights; or a timm model that is at hand, whose mode is left as it is. Classes
            of such a model have names only where its ``pretrained_cfg`` has ``label_names``.
        images: One or more of: path, PIL image, NumPy array of uint8, (height, width) or (height, width, 3), and open
            binary file.
        top_k: Number of classes per image.
        batch_size: Number of images that the network takes at once.
        device: Device to which the network is moved, such as ``'cuda'``. Default: that of a model at hand, or the CPU.

    Raises:
        UsageError: The source names nothing with weights, has no classifier, or takes images of another number of
            channels than 1 or 3; ``device`` is unknown, or one of ``images`` is no image.
        IEBNZooError: The weights cannot be used, or an image cannot be read.
    """
    many = as_images(images)
    return list(predictions(predictor_on(source, device), many, top_k, batch_size))


def as_images(images: Any) -> Iterable[ImageLike]:
    """Return one image, or several, as several. A binary file is one, although Python iterates over its lines.

    Raises:
        UsageError: It is neither.
    """
    alone: Any = images
    if isinstance(images, (str, Path, Image.Image, np.ndarray, bytes)) or _is_file(images):
        return [alone]
    try:
        iter(images)  # not isinstance of Iterable: a torch Dataset has __getitem__ alone
    except TypeError as e:
        raise UsageError(f'images is a {type(images).__name__}.\nExpected a path, a PIL image, a NumPy array, an open '
                         f'binary file, or several of them.') from e
    return images


def _is_file(value: Any) -> bool:
    return hasattr(value, 'read') and hasattr(value, 'seek')  # a ZipFile can be read, and is no file


def predictor_on(source: Source, device: Union[str, torch.device, None]) -> Predictor:
    """Make a predictor whose network is moved to ``device``, or stays where it is for None.

    Raises:
        UsageError: The device is unknown, or see ``Predictor``.
        IEBNZooError: The weights cannot be used.
    """
    try:
        chosen = None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as e:
        raise UsageError(f'{device!r} is no device.\nExpected one of torch, such as cpu, cuda or cuda:1.') from e
    predictor = Predictor(source, chosen)
    if chosen is not None:
        predictor.model.to(chosen)
    return predictor


def check_count(name: str, value: Any) -> None:
    """Raise UsageError unless ``value``, the argument ``name``, is a whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise UsageError(f'{name} is {value!r}, expected a whole number of at least 1.')


def predictions(
        predictor: Predictor,
        images: Iterable[ImageLike],
        top_k: int = 5,
        batch_size: int = 32,
        skipped: Optional[List[CorruptImageError]] = None,
) -> Iterator[Prediction]:
    """Predict as ``predict`` does, and yield each prediction as soon as it is there.

    Args:
        predictor: The network.
        images: See ``predict``.
        top_k: See ``predict``.
        batch_size: See ``predict``.
        skipped: List that receives the error of each image that cannot be decoded and is skipped; None raises it.

    Raises:
        UsageError: ``top_k`` or ``batch_size`` is no whole number of at least 1, or the network has no classifier.
    """
    check_count('top_k', top_k)
    check_count('batch_size', batch_size)
    classifier = getattr(predictor.model, 'get_classifier', lambda: None)()  # of timm's networks
    if isinstance(classifier, nn.Identity):
        raise UsageError(f'{type(predictor.model).__name__} was made with num_classes=0, so it returns features.\n'
                         f'Give a network with a classifier.')
    opened = _opened(predictor, images, skipped)
    while batch := list(itertools.islice(opened, batch_size)):
        probabilities = predictor.probabilities([image for _, image in batch])
        values, classes = probabilities.topk(min(top_k, probabilities.shape[1]), dim=1)
        for (name, _), p, c in zip(batch, values.tolist(), classes.tolist(), strict=True):
            labels = [str(i) if predictor.label_names is None else predictor.label_names[i] for i in c]
            yield Prediction(name, tuple(c), tuple(labels), tuple(p))


def _opened(
        predictor: Predictor, images: Iterable[ImageLike], skipped: Optional[List[CorruptImageError]],
) -> Iterator[Tuple[str, Image.Image]]:
    for number, image in enumerate(images):
        name = str(image) if isinstance(image, (str, Path)) else f'image {number}'
        try:
            yield name, predictor.open(image)
        except CorruptImageError as e:
            if skipped is None:
                raise
            skipped.append(e)
