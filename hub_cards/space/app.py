"""A page that classifies an uploaded image with a network of the zoo and draws the gates that the image opens.

What it does is in ``iebn_zoo.prediction.page``; which networks can be named is in ``iebn_zoo.prediction.choice``.
"""
import os

os.environ['HF_HUB_DISABLE_IMPLICIT_TOKEN'] = '1'  # visitors must not reach what the owner of the page alone may read

from typing import Any, Dict, Optional, Tuple

import gradio as gr

from iebn_zoo.prediction.choice import NetworkCache, zoo_names
from iebn_zoo.prediction.page import MOST_BYTES, answer_or_message

FIRST = 'iebn_resnet20_cifar.cifar100'
FONT = ('system-ui', 'sans-serif')  # fonts of the visitor's machine: none is loaded from elsewhere
CACHE = NetworkCache(limit=2)
INTRODUCTION = """# Gates of Instance Enhancement Batch Normalization

An IEBN network multiplies each channel by a gate between 0 and 1, which depends on the image
([paper](https://arxiv.org/abs/1908.04008)). Upload an image to see its five most probable classes and the gates that
it opens in each layer. Weights whose tag begins with `bn_` were trained with BatchNorm and converted, so their gates
are still the same for every image. Those of `iebn_resnet20_cifar.cifar100` are not, nor those of `hf-hub:OWNER/NAME`
if that network was trained or fine-tuned with IEBN.
"""


def uploaded(payload: Any) -> Optional[str]:
    return payload.path if payload else None


def classify(name: Optional[str], path: Optional[str]) -> Tuple[Optional[Dict[str, float]], Any, str]:
    found = answer_or_message(CACHE, name, path)
    return found.classes or None, found.picture, found.text


with gr.Blocks(title='IEBN gates', analytics_enabled=False) as page:
    gr.Markdown(INTRODUCTION)
    with gr.Row():
        with gr.Column():
            model = gr.Dropdown(zoo_names(), value=FIRST, allow_custom_value=True, label='Network', elem_id='model',
                                info='a name with weights, or hf-hub:OWNER/NAME')
            image = gr.Image(sources=['upload', 'clipboard'], label='Image', height=300, elem_id='image')
            image.preprocess = uploaded  # the file itself: gradio's reader has other limits and other messages
            button = gr.Button('Classify', variant='primary', elem_id='classify')
        with gr.Column():
            classes = gr.Label(label='Most probable classes', elem_id='classes')
            text = gr.Textbox(label='What was done', lines=3, interactive=False, elem_id='text')
    picture = gr.Image(label='Gates', show_label=False, format='png', interactive=False, elem_id='picture',
                       buttons=['download', 'fullscreen'])
    outputs = [classes, picture, text]
    button.click(classify, [model, image], outputs)
    image.change(lambda: (None, None, ''), None, outputs, show_progress='hidden', api_name=False)
page.queue(max_size=20)

if __name__ == '__main__':
    page.launch(max_file_size=MOST_BYTES, theme=gr.themes.Default(font=FONT, font_mono=('monospace',)))
